"""Logistic regression on cached features: the fast linear evaluation, in a time that does not grow without limit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssljax import sharding
from ssljax.evals import features as shared
from ssljax.evals import rows as training
from ssljax.types import BadInputError

STEPS = 300  # of L-BFGS, a third where the features are not turned: they need more, and seldom change the answer


@training.timed("quick linear probe")
def quick_probe(
    train_features,
    train_labels,
    test_features,
    test_labels,
    *,
    num_classes: int,
    l2_grid: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    folds: int = 1,
    seed: int = 0,
) -> float:
    """Top-1 of multinomial logistic regression on cached features, within a minute.

    Features are standardised by the training rows. Of rows whose number times their width exceeds `rows.MOST` (times 16
    / classes, if that is less), an evenly spaced part of each class is learned from; a printed line says so once. All
    test rows count. The L2 strength is the one with most right answers on held-out fifths of the training rows (the
    stronger of equals); then all of them are fitted.

    Args:
        train_features: float[N, D].
        train_labels: int[N] in [0, num_classes).
        test_features: float[M, D].
        test_labels: int[M].
        num_classes: the number of classes.
        l2_grid: candidates for l2 in `mean cross-entropy + l2/2 |kernel|^2`; a single one is used directly.
        folds: number of the five folds to validate on.
        seed: seed of the folds.

    Returns:
        Accuracy in per cent, 0 to 100.

    Raises:
        BadInputError: no labels or outside the classes, features not finite, widths that differ, an l2 <= 0.

    Differs from the paper:
        No augmentation and L-BFGS instead of SGD: compare such figures with each other only.
    """
    train, labels, test = shared.check_split(train_features, train_labels, test_features, num_classes)
    truth = shared.check_labels("test_labels", test_labels, len(test), num_classes)
    if not l2_grid or min(l2_grid) <= 0:
        raise BadInputError(f"l2_grid={l2_grid}: give at least one strength, all above 0.")
    kept = training.evenly_per_class(labels, training.affordable(len(train), train.shape[1], num_classes))
    if len(kept) < len(train):
        training.say_once(
            f"The quick linear probe learns from {len(kept)} of {len(train)} training rows of width {train.shape[1]}, "
            "evenly spaced in each class: all of them would take more than a minute."
        )
        train, labels = train[kept], labels[kept]
    train, axes = training.standardise(train)
    fit = functools.partial(
        logistic_regression,
        train,
        labels,
        num_classes=num_classes,
        steps=STEPS if axes.turned is not None else STEPS // 3,
    )
    fifths = shared.fifths(labels, seed)
    best = _best_strength(fit, train, labels, sorted(l2_grid, reverse=True), [fifths == i for i in range(folds)])
    head = fit(np.ones(len(train)), l2=best)
    return 100 * _right(axes.raw(head), test, truth) / len(test)


def _best_strength(fit, train, labels, strengths, held_out) -> float:
    """The strength with most right answers on the rows held out, the stronger of equals; the middle one without any."""
    right = dict.fromkeys(strengths, 0)
    for held in held_out if len(strengths) > 1 else ():
        head = None
        for strength in strengths if held.any() else ():
            head = fit(~held, l2=strength, start=head)
            right[strength] += _right(head, train[held], labels[held])
    return max(strengths, key=right.__getitem__) if any(right.values()) else strengths[len(strengths) // 2]


def logistic_regression(
    features, labels, weights, *, num_classes: int, l2: float, start=None, tolerance=1e-3, steps=STEPS
):
    """The minimum of `weighted mean cross-entropy + l2/2 |kernel|^2` by full-batch L-BFGS.

    Takes features [N, D], labels [N], weights [N] (0 hides a row), where to start, the largest scaled
    gradient to stop at and the most steps; returns `{"kernel": [D, num_classes], "bias": [num_classes]}`.
    """
    if start is None:
        width = features.shape[1]
        start = {"kernel": np.zeros((width, num_classes), "f4"), "bias": np.zeros(num_classes, "f4")}
    rows = shared.round_up(len(features), sharding.data_devices())
    weights = np.asarray(weights, np.float32) / np.sum(weights, dtype=np.float32)
    data = [shared.place(shared.pad_rows(array, rows), split=True) for array in (features, labels, weights)]
    start = {name: shared.place(value, split=False) for name, value in start.items()}
    return jax.tree.map(np.asarray, _minimise(start, *data, jnp.float32(l2), jnp.float32(tolerance), steps))


@jax.jit
def _minimise(start, features, labels, weights, l2, tolerance, steps):
    # in units in which the curvature is near 1 on the axes of `rows.standardise`: p (1 - p) is at most 0.25
    scale = jax.lax.rsqrt(0.25 * jnp.sum(weights[:, None] * features**2, axis=0) + l2)[:, None]

    def loss_fn(head):
        head = head | {"kernel": scale * head["kernel"]}
        misfit = jnp.sum(weights * cross_entropy(logits_of(head, features), labels))
        return misfit + l2 / 2 * jnp.sum(head["kernel"] ** 2)

    solver = optax.lbfgs()

    def body(carry):
        head, state, count, _ = carry
        value, grad = optax.value_and_grad_from_state(loss_fn)(head, state=state)
        updates, state = solver.update(grad, state, head, value=value, grad=grad, value_fn=loss_fn)
        return optax.apply_updates(head, updates), state, count + 1, optax.tree.norm(grad, ord=jnp.inf)

    start = start | {"kernel": start["kernel"] / scale}
    first = start, solver.init(start), 0, jnp.float32(jnp.inf)
    head, *_ = jax.lax.while_loop(lambda carry: (carry[2] < steps) & (carry[3] > tolerance), body, first)
    return head | {"kernel": scale * head["kernel"]}


def _right(head, features, labels) -> int:
    return int(np.sum(np.argmax(features @ head["kernel"] + head["bias"][None, :], axis=1) == labels))


def logits_of(head, features):
    """[B, C] of a head on features [B, D]."""
    return jnp.matmul(features, head["kernel"], precision=jax.lax.Precision.HIGHEST) + head["bias"][None, :]


def cross_entropy(logits, labels):
    """[B], in nats."""
    return -jnp.sum(jax.nn.one_hot(labels, logits.shape[1]) * jax.nn.log_softmax(logits), axis=1)
