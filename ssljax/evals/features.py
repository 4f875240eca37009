"""Features of a whole data set from a frozen encoder, and the proof that it stayed frozen."""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssljax import sharding
from ssljax.types import Array, BadInputError, Batch, PyTree


class BackboneChangedError(RuntimeError):
    """An evaluation altered the parameters or statistics of the encoder it was to measure."""


def extract(
    features_fn: Callable[[PyTree, Any], dict[str, Array]],
    variables: PyTree,
    inputs: Any,
    *,
    names: Sequence[str] = (),
    batch_size: int = 512,
) -> dict[str, np.ndarray]:
    """The features of a whole set, batch by batch, on every host.

    Batches are split over `data` under a mesh. The last batch is padded, so that one program is compiled for
    one `features_fn`: pass the same function object, not a new lambda, at each call.

    Args:
        features_fn: `(variables, inputs) -> {name: [B, D]}`; applies the encoder in eval mode.
        variables: what `features_fn` reads, such as `(params, aux)`.
        inputs: arrays [N, ...] in any tree, such as uint8[N, H, W, C], the same on every host.
        names: names of the features to compute and keep; empty: all. What only the others need is not computed.
        batch_size: rows of one call over all devices; rounded up to a multiple of the devices.

    Returns:
        `{name: float32[N, D]}`, in the order of `inputs`.

    Raises:
        BadInputError: there are no rows, no such feature, or `batch_size` is below 1.

    >>> images = np.ones((3, 4, 4, 1), np.uint8)
    >>> extract(lambda scale, x: {"mean": scale * x.mean((1, 2))}, 2.0, images)["mean"].shape
    (3, 1)
    """
    count = len(jax.tree.leaves(inputs)[0])
    if count == 0:
        raise BadInputError("inputs: there are no rows to extract features from; give at least one.")
    if batch_size < 1:
        raise BadInputError(f"batch_size={batch_size}: give at least 1.")
    size = round_up(min(batch_size, count), sharding.data_devices())
    parts = []
    for start in range(0, count, size):
        rows = min(size, count - start)
        batch = jax.tree.map(functools.partial(_rows, start=start, rows=rows, size=size), inputs)
        outputs = _apply(features_fn, tuple(names), variables, batch)
        parts.append({name: np.asarray(value, np.float32)[:rows] for name, value in outputs.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows(values: np.ndarray, *, start: int, rows: int, size: int) -> Array:
    return place(pad_rows(np.asarray(values[start : start + rows]), size), split=True)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(features_fn, names, variables, inputs):
    # the state may be sharded over `data` (--shard-state); every device needs all of it here
    outputs = features_fn(sharding.gather(variables), inputs)
    if unknown := [name for name in names if name not in outputs]:
        raise BadInputError(f"there are no features {unknown[0]!r}; the method has {', '.join(outputs)}.")
    kept = {name: outputs[name].astype(jnp.float32) for name in names or outputs}
    return sharding.gather(kept)


@contextlib.contextmanager
def unchanged(variables: PyTree) -> Iterator[None]:
    """Check that the block does not change any leaf of `variables`, bit for bit.

    Raises:
        BackboneChangedError: a leaf is different, new or gone after the block; the message names it.

    Reference:
        The sanity check of `main_lincls.py` in facebookresearch/moco, which compares the weights only.

    Differs from the paper:
        Batch statistics are compared too: a probe in train mode alters them and no weight.

    >>> with unchanged({"kernel": np.ones(3)}):
    ...     pass
    """
    before = digest(variables)
    yield
    after = digest(variables)
    wrong = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if wrong:
        raise BackboneChangedError(f"The evaluation changed the frozen encoder: {', '.join(wrong[:5])}.")


def digest(variables: PyTree) -> dict[str, str]:
    """A SHA-256 of every leaf's shape, dtype and bytes (this host's part of it), by the leaf's path."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path): _leaf_digest(leaf) for path, leaf in leaves}


def _leaf_digest(leaf) -> str:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    whole = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
    blocks = [leaf] if whole else [shard.data for shard in leaf.addressable_shards]
    result = hashlib.sha256()
    for block in map(np.asarray, blocks):
        result.update(f"{block.shape} {block.dtype}".encode())
        result.update(np.ascontiguousarray(block).tobytes())
    return result.hexdigest()


def check_labels(name: str, labels, rows: int, num_classes: int) -> np.ndarray:
    """`labels` as int32[rows] after making sure that there is one in [0, num_classes) for each row.

    Raises:
        BadInputError: the labels are missing, of another length, or outside the classes.
    """
    if labels is None:
        raise BadInputError(f"{name}: labels are missing; give labelled data.")
    labels = np.asarray(labels)
    if labels.shape != (rows,):
        raise BadInputError(f"{name} has the shape {labels.shape} for {rows} rows; give one label a row.")
    if rows and (labels.min() < 0 or labels.max() >= num_classes):
        raise BadInputError(
            f"{name} lie in [{labels.min()}, {labels.max()}] with num_classes={num_classes}; "
            "give labels from 0 to num_classes - 1."
        )
    return labels.astype(np.int32)


def check_features(name: str, features) -> np.ndarray:
    """`features` as float32[N, D] with N and D at least 1, all finite.

    Raises:
        BadInputError: another rank, nothing in it, or NaN or infinity among the numbers.
    """
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or features.size == 0:
        raise BadInputError(f"{name} has the shape {features.shape}; give [N, D] with at least one row.")
    if not np.isfinite(features).all():
        raise BadInputError(f"{name} holds NaN or infinity: the encoder has diverged; lower the learning rate.")
    return features


def check_split(train_features, train_labels, test_features, num_classes: int):
    """The training features, training labels and test features of one encoder, checked as above.

    Raises:
        BadInputError: as in `check_features` and `check_labels`, or features of different widths.
    """
    train = check_features("train_features", train_features)
    test = check_features("test_features", test_features)
    if train.shape[1] != test.shape[1]:
        raise BadInputError(
            f"train_features are {train.shape[1]} wide and test_features {test.shape[1]}; use one encoder."
        )
    return train, check_labels("train_labels", train_labels, len(train), num_classes), test


def labelled_batch(batch: Batch, num_classes: int, size: int = 0) -> dict[str, Array]:
    """This host's rows, inputs by name and "label", as a global batch; rows are added up to `size`, labelled -1.

    A batch of the loader's, which is global and on the devices already, is returned unchanged.

    Raises:
        BadInputError: as in `check_labels`.
    """
    if isinstance(batch.get("label"), jax.Array):
        return batch
    inputs = {name: np.asarray(values) for name, values in inputs_of(batch).items()}
    labels = check_labels("batch['label']", batch.get("label"), len(next(iter(inputs.values()))), num_classes)
    added = max(size - len(labels), 0)
    labels = np.concatenate([labels, np.full(added, -1, np.int32)])
    padded = {name: pad_rows(values, len(labels)) for name, values in inputs.items()}
    return sharding.shard_batch(padded | {"label": labels})


def inputs_of(batch: Batch) -> Batch:
    """A labelled batch without its labels."""
    return {name: values for name, values in batch.items() if name != "label"}


def fifths(labels: np.ndarray, seed: int) -> np.ndarray:
    """The fifth, 0 to 4, of each row, assigned round-robin within its class; -1 where the class has no other row.

    >>> fifths(np.array([0, 0, 7]), seed=0)[2].item()
    -1
    """
    random, result = np.random.default_rng(seed), np.full(len(labels), -1)
    for rows in (np.flatnonzero(labels == label) for label in np.unique(labels)):
        if len(rows) > 1:
            result[random.permutation(rows)] = np.arange(len(rows)) % 5
    return result


def place(array: np.ndarray, *, split: bool) -> Array:
    """A host's copy of a whole array on the devices: rows over `data` if `split`, else the whole on each."""
    target = sharding.data_sharding() if split else sharding.replicated_sharding()
    if target is None:
        return jnp.asarray(array)
    return jax.make_array_from_callback(array.shape, target, lambda index: array[index])


def pad_rows(array: np.ndarray, rows: int) -> np.ndarray:
    """`array` with rows of zeros at the end, `rows` in all."""
    return np.pad(array, [(0, rows - len(array))] + [(0, 0)] * (array.ndim - 1))


def round_up(count: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `count`."""
    return -(-count // multiple) * multiple
