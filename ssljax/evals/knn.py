"""Weighted k-nearest-neighbour classification of frozen features: an evaluation without training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from ssljax import sharding
from ssljax.evals.features import check_labels, check_split, pad_rows, place, round_up
from ssljax.evals.rows import evenly_per_class, say_once, timed
from ssljax.types import BadInputError

SIMILARITIES = 2**25  # of one device at a time: 128 MiB
PAIRS = 5 * 10**8  # of a test and a training row, 512 wide, that are compared on a CPU: half a minute on two cores


@timed("kNN")
def knn_predict(
    train_features,
    train_labels,
    test_features,
    *,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> np.ndarray:
    """Each test row's class by a vote of its k most similar training rows.

    A neighbour with cosine similarity s votes exp(s / temperature) for its own class. Rows of the test set are split
    over `data` and processed in blocks, so only a strip of the similarity matrix exists at a time. On a CPU, where
    training times test rows exceed `PAIRS` (fewer where they are wide), the neighbours are among an evenly spaced part
    of each class; a printed line says so once.

    Args:
        train_features: float[N, D], normalised here.
        train_labels: int[N] in [0, num_classes).
        test_features: float[M, D], normalised here.
        num_classes: the number of classes.
        k: neighbours of a vote.
        temperature: T > 0.

    Returns:
        int32[M]; the lower class of two with equal votes.

    Raises:
        BadInputError: k < 1, k > N, T <= 0, no labels, labels outside the classes, features not finite or of
            different widths.

    Reference:
        Wu et al., arXiv 1805.01978, section 3.4; `knn_predict` of the CIFAR-10 demo of facebookresearch/moco
        (k = 200, T = 0.1 on the 128 outputs of the projector); DINO (arXiv 2104.14294): k = 20, T = 0.07 on
        the backbone.

    Differs from the paper:
        The votes are scaled by exp(-s_max / T), which no comparison notices, so that a low T cannot overflow.

    >>> train = np.eye(3, dtype=np.float32)
    >>> knn_predict(train, [0, 1, 2], train[[2, 0]], num_classes=3, k=1).tolist()
    [2, 0]
    """
    train, labels, test = check_split(train_features, train_labels, test_features, num_classes)
    if not 1 <= k <= len(train):
        raise BadInputError(f"k={k}: there are {len(train)} training rows; give k from 1 to {len(train)}.")
    if temperature <= 0:
        raise BadInputError(f"temperature={temperature}: a vote is exp(cosine / T); give a number above 0.")
    if sharding.platform() == "cpu":
        train, labels = _affordable(train, labels, len(test), k + num_classes)
    devices = sharding.data_devices()
    size = min(devices * int(np.clip(SIMILARITIES // len(train), 1, 512)), round_up(len(test), devices))
    placed = place(_normalise(train), split=False), place(labels, split=False)
    test, predicted = _normalise(test), []
    for start in range(0, len(test), size):
        rows = test[start : start + size]
        classes = _vote(*placed, place(pad_rows(rows, size), split=True), num_classes, k, temperature)
        predicted.append(np.asarray(classes)[: len(rows)])
    return np.concatenate(predicted)


def knn_accuracy(
    train_features,
    train_labels,
    test_features,
    test_labels,
    *,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> float:
    """Top-1 of `knn_predict` in per cent, 0 to 100; arguments and errors as there, `test_labels` int[M]."""
    truth = check_labels("test_labels", test_labels, len(test_features), num_classes)
    predicted = knn_predict(
        train_features, train_labels, test_features, num_classes=num_classes, k=k, temperature=temperature
    )
    return float(100 * np.mean(predicted == truth))


def _affordable(train: np.ndarray, labels: np.ndarray, tested: int, least: int) -> tuple[np.ndarray, np.ndarray]:
    kept = evenly_per_class(labels, max(PAIRS * 1024 // (tested * (512 + train.shape[1])), least))
    if len(kept) == len(train):
        return train, labels
    say_once(
        f"kNN searches {len(kept)} of {len(train)} training rows, evenly spaced in each class: {tested} test rows "
        "and all of them would take more than a minute on a CPU."
    )
    return train[kept], labels[kept]


def _normalise(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _vote(train, labels, test, num_classes, k, temperature):
    def one_device(train, labels, test, temperature):
        similarity = jnp.matmul(test, train.T, precision=jax.lax.Precision.HIGHEST)
        nearest, rows = _nearest(similarity, k)
        votes = jnp.exp((nearest - nearest[:, :1]) / temperature)
        scores = jax.vmap(lambda vote, label: jnp.zeros(num_classes).at[label].add(vote))(votes, labels[rows])
        return jnp.argmax(scores, axis=1).astype(jnp.int32)

    if not sharding.has_mesh():
        return one_device(train, labels, test, temperature)
    split = P(sharding.DATA)
    vote = jax.shard_map(one_device, in_specs=(P(), P(), split, P()), out_specs=split)
    return sharding.gather(vote(train, labels, test, temperature))


def _nearest(similarity, k: int):
    """`jax.lax.top_k`, which sorts whole rows on a CPU, on few of the columns.

    The k largest of N are in the k groups of columns with the largest maxima.
    """
    rows, columns = similarity.shape
    size = int((columns / k) ** 0.5)  # fewest columns to look at in all: N / size maxima and k size members
    if size < 2:
        return jax.lax.top_k(similarity, k)
    count = -(-columns // size)
    padded = jnp.pad(similarity, ((0, 0), (0, count * size - columns)), constant_values=-jnp.inf)
    grouped = padded.reshape(rows, count, size)
    # in increasing order, so that of equals the first is taken as `top_k` does
    groups = jnp.sort(jax.lax.top_k(jnp.max(grouped, axis=2), k)[1], axis=1)
    members = jnp.take_along_axis(grouped, groups[:, :, None], axis=1).reshape(rows, k * size)
    found, places = jax.lax.top_k(members, k)
    return found, jnp.take_along_axis(groups, places // size, axis=1) * size + places % size
