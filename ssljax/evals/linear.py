"""Linear evaluation on a frozen backbone by the papers' protocol; `logistic` has the fast one on cached features."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssljax import sharding
from ssljax.evals import MOCO, ProbeConfig
from ssljax.evals import features as shared
from ssljax.evals.logistic import cross_entropy, logits_of
from ssljax.types import Array, BadInputError, Batch, PyTree

Batches = Iterable[Batch]


class LinearProbe(NamedTuple):
    """Top-1 on the test batches in per cent, and the classifier: kernel [D, classes] and bias [classes]."""

    accuracy: float
    kernel: np.ndarray
    bias: np.ndarray


def linear_probe(
    features_fn: Callable[[PyTree, Array], Array],
    variables: PyTree,
    train_batches: Callable[[int], Batches],
    test_batches: Callable[[], Batches],
    *,
    train_view: Callable[..., Array],
    test_view: Callable[..., Array],
    num_classes: int,
    config: ProbeConfig = MOCO,
    seed: int = 0,
    on_epoch: Callable[[int, float], Any] = lambda epoch, loss: None,
) -> LinearProbe:
    """Train a linear classifier on augmented examples seen through the frozen encoder, and test it.

    Args:
        features_fn: `(variables, view) -> [B, D]`, the encoder in eval mode.
        variables: what `features_fn` reads; checked not to change.
        train_batches: `epoch -> batches {"label": int[B], ...}` with inputs [B, ...] by name, in random order, of
            one size; with several hosts each gives its rows, in as many batches as the others.
        test_batches: `() -> batches` of the same kind; the last may be smaller.
        train_view: `(key, **inputs) -> view`, such as random-resized-crop, flip and normalisation.
        test_view: `(**inputs) -> view`, such as normalisation.
        num_classes: the number of classes, at least 2.
        config: the numbers of the protocol.
        seed: seed of the classifier's start and the views.
        on_epoch: called with the epoch, from 0, and its mean training loss.

    Returns:
        The classifier after the last epoch and its accuracy.

    Raises:
        BadInputError: no batches, no labels, labels outside the classes, or batches not of the config's size.
        BackboneChangedError: `variables` were altered.

    Reference:
        MoCo arXiv 1911.05722, section 4.1; `main_lincls.py` of facebookresearch/moco. The other configs:
        `main_lincls.py` of facebookresearch/moco-v3 and simsiam, `eval_linear.py` of facebookresearch/swav.

    Differs from the paper:
        The accuracy is the last epoch's; the official scripts also keep the best epoch on the test images.
    """
    trained: Any = None
    step, key, static = 0, jax.random.key(seed), (features_fn, train_view, config)
    with shared.unchanged(variables):
        for epoch in range(config.epochs):
            losses, rate = [], jnp.float32(config.rate(epoch))
            for batch in train_batches(epoch):
                batch = shared.labelled_batch(batch, num_classes)
                if (rows := len(batch["label"])) != config.batch_size:
                    raise BadInputError(f"A batch has {rows} rows; ProbeConfig says {config.batch_size}.")
                if trained is None:
                    trained = _begin(features_fn, train_view, variables, key, batch, num_classes, config)
                step, step_key = step + 1, jax.random.fold_in(key, step)
                trained, loss = _probe_step(trained, variables, batch, step_key, rate, *static)
                losses.append(loss)
            if not losses:
                raise BadInputError(f"train_batches({epoch}) is empty; give at least one labelled batch.")
            on_epoch(epoch, float(np.mean(jax.device_get(losses))))
        accuracy = _test_accuracy(features_fn, test_view, variables, trained[0], test_batches(), num_classes)
    return LinearProbe(accuracy, np.asarray(trained[0]["kernel"]), np.asarray(trained[0]["bias"]))


def _features(features_fn, view, variables, key, inputs):
    seen = view(**inputs) if key is None else view(key, **inputs)
    return features_fn(sharding.gather(variables), seen).astype(jnp.float32)


def _begin(features_fn, view, variables, key, batch, num_classes, config):
    of_inputs = functools.partial(_features, features_fn, view, variables, key)
    width = jax.eval_shape(of_inputs, shared.inputs_of(batch)).shape[-1]
    kernel = jax.random.normal(jax.random.fold_in(key, 2**31 - 1), (width, num_classes))
    head = {"kernel": config.init_std * kernel, "bias": jnp.zeros(num_classes)}
    return head, _transform(config).init(head)


def _transform(config: ProbeConfig) -> optax.GradientTransformation:
    scaled = optax.scale_by_trust_ratio(trust_coefficient=1e-3) if config.lars else optax.identity()
    return optax.chain(optax.add_decayed_weights(config.weight_decay), scaled, optax.trace(config.momentum))


@functools.partial(jax.jit, static_argnums=(5, 6, 7))
def _probe_step(trained, variables, batch, key, rate, features_fn, view, config):
    head, momenta = trained
    features = _features(features_fn, view, variables, key, shared.inputs_of(batch))

    def loss_fn(head):
        return jnp.mean(cross_entropy(logits_of(head, features), batch["label"]))

    loss, grads = jax.value_and_grad(loss_fn)(head)
    updates, momenta = _transform(config).update(grads, momenta, head)
    return (jax.tree.map(lambda leaf, step: leaf - rate * step, head, updates), momenta), loss


@functools.partial(jax.jit, static_argnums=(0, 1))
def _count_right(features_fn, view, variables, head, batch):
    logits = logits_of(head, _features(features_fn, view, variables, None, shared.inputs_of(batch)))
    is_label = batch["label"][:, None] == jnp.arange(logits.shape[1])[None, :]
    own = jnp.max(jnp.where(is_label, logits, -jnp.inf), axis=1)
    best_other = jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=1)
    # a tie and a NaN count against the classifier, and so do padded rows, whose own score is -inf
    return jnp.sum(own > best_other), jnp.sum(batch["label"] >= 0)


def _test_accuracy(features_fn, view, variables, head, batches, num_classes) -> float:
    right = total = size = 0
    for rows in batches:
        size = size or shared.round_up(
            len(next(iter(rows.values()))), max(1, sharding.data_devices() // jax.process_count())
        )
        batch = shared.labelled_batch(rows, num_classes, size)
        counts = _count_right(features_fn, view, variables, head, batch)
        right, total = right + int(counts[0]), total + int(counts[1])
    if total == 0:
        raise BadInputError("test_batches() is empty; give at least one batch of labelled examples.")
    return 100 * right / total
