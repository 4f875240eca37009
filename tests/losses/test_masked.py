"""Masked cross-entropies against torch's, by hand where torch has none, and on every number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.losses import masked
from ssljax.types import BadInputError
from tests.oracles import expected
from tests.oracles.masked_oracles import SHAPES, masked_inputs

CASES = list(enumerate(SHAPES))


@pytest.mark.parametrize(("seed", "name"), CASES)
def test_masked_cross_entropy_and_its_gradient_are_torchs(seed, name):
    logits, targets, weights = masked_inputs(seed, SHAPES[name])
    (loss, accuracy), gradient = jax.value_and_grad(masked.masked_cross_entropy, has_aux=True)(
        jnp.asarray(logits), targets, weights
    )
    # torch divides by the number of predictions, BERT by 1e-5 more
    ours = weights.sum() / (weights.sum() + 1e-5)
    np.testing.assert_allclose(loss, expected("masked_torch")[f"{name}_loss"] * ours, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected("masked_torch")[f"{name}_gradient"] * ours, rtol=1e-5, atol=1e-7)
    right = [logits[at].argmax() == targets[at] for at in np.ndindex(targets.shape) if weights[at]]
    np.testing.assert_allclose(accuracy, 100 * np.mean(right), rtol=1e-6)


@pytest.mark.parametrize(("seed", "name"), CASES)
def test_cross_entropy_of_the_same_rows_is_torchs(seed, name):
    logits, targets, weights = masked_inputs(seed, SHAPES[name])
    rows = [jnp.asarray(x) for x in (logits.reshape(-1, logits.shape[-1]), targets.ravel(), weights.ravel())]
    np.testing.assert_allclose(masked.cross_entropy(*rows), expected("masked_torch")[f"{name}_loss"], rtol=1e-6)
    real = [array[rows[2] > 0] for array in rows[:2]]
    np.testing.assert_allclose(masked.cross_entropy(*real), expected("masked_torch")[f"{name}_loss"], rtol=1e-6)


def test_next_sentence_by_hand():
    logits = np.random.default_rng(3).normal(0, 2, (16, 2)).astype(np.float32)
    labels = np.arange(16, dtype=np.int32) % 2
    margin = np.where(labels == 1, 1, -1) * (logits[:, 1] - logits[:, 0]).astype(np.float64)
    loss, accuracy = masked.next_sentence(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(loss, np.log1p(np.exp(-margin)).mean(), rtol=1e-6)
    np.testing.assert_allclose(accuracy, 100 * (margin > 0).mean(), rtol=1e-6)


def test_losses_do_not_depend_on_the_devices(each_mesh):
    logits, targets, weights = masked_inputs(5, (8, 3, 9))
    # all predictions of the last devices' rows are gone: a mean of the devices' means would differ
    weights[4:] = 0
    weights[4, 0] = 1

    def losses(logits, targets, weights):
        loss, accuracy = masked.masked_cross_entropy(logits, targets, weights)
        pair, _ = masked.next_sentence(logits[:, 0, :2], targets[:, 0] % 2)
        return loss + pair + masked.cross_entropy(logits[:, 1], targets[:, 1], weights[:, 0]), accuracy

    reference, reference_gradient = by_hand(logits, targets, weights)
    arrays = [sharding.shard(jnp.asarray(array)) for array in (logits, targets, weights)]
    (loss, _), gradient = jax.jit(jax.value_and_grad(losses, has_aux=True))(*arrays)
    np.testing.assert_allclose(loss, reference, rtol=1e-6)
    np.testing.assert_allclose(gradient, reference_gradient, rtol=1e-5, atol=1e-7)


def by_hand(logits, targets, weights):
    """The sum of the three losses above and its gradient, row by row in float64."""
    logits, gradient, value = logits.astype(np.float64), np.zeros(logits.shape), 0.0

    def add(at, label, weight):
        nonlocal value
        p = np.exp(logits[at]) / np.exp(logits[at]).sum()
        value -= weight * np.log(p[label])
        gradient[at] += weight * (p - np.eye(len(p))[label])

    for i, p in np.ndindex(targets.shape):
        add((i, p), targets[i, p], weights[i, p] / (weights.sum() + 1e-5))
    for i in range(len(logits)):
        add((i, 0, slice(0, 2)), targets[i, 0] % 2, 1 / len(logits))
        add((i, 1), targets[i, 1], weights[i, 0] / weights[:, 0].sum())
    return value, gradient


def test_a_target_of_0_counts():
    logits = jnp.zeros((1, 2, 4)).at[0, :, 0].set(-5.0)
    loss, accuracy = masked.masked_cross_entropy(logits, jnp.zeros((1, 2), jnp.int32), jnp.array([[1.0, 0.0]]))
    np.testing.assert_allclose(loss, 5 + np.log(3 + np.exp(-5)), rtol=1e-4)
    assert accuracy == 0


def test_what_stands_in_an_empty_slot_is_of_no_matter():
    logits, targets, weights = masked_inputs(1, (2, 4, 6))
    value = jax.value_and_grad(lambda *inputs: masked.masked_cross_entropy(*inputs)[0])
    reference = value(jnp.asarray(logits), targets, weights)
    for label in (-100, 6, 99):
        loss, gradient = value(jnp.asarray(logits), np.where(weights > 0, targets, label), weights)
        np.testing.assert_allclose(loss, reference[0])
        np.testing.assert_allclose(gradient, reference[1])
    assert np.isnan(value(jnp.asarray(logits), np.full_like(targets, -100), weights)[0])


def test_no_predictions_cost_nothing():
    logits = jnp.ones((2, 3, 4))
    loss, accuracy = masked.masked_cross_entropy(logits, jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 3)))
    assert loss == accuracy == 0
    assert masked.cross_entropy(logits[:, 0], jnp.zeros(2, jnp.int32), jnp.zeros(2)) == 0


def test_half_precision_logits_are_summed_in_float32():
    logits, targets, weights = map(jnp.asarray, masked_inputs(2, (2, 8, 300)))
    half = jnp.asarray(logits, jnp.bfloat16)
    wide = masked.masked_cross_entropy(half.astype(jnp.float32), targets, weights)[0]
    narrow = masked.masked_cross_entropy(half, targets, jnp.asarray(weights, jnp.bfloat16))[0]
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, wide, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: masked.masked_cross_entropy(jnp.ones((2, 4)), jnp.ones(2, int), jnp.ones(2)), r"\(2, 4\)"),
        (lambda: masked.masked_cross_entropy(jnp.ones((2, 3, 4)), jnp.ones((2, 4), int), jnp.ones((2, 3))), "targets"),
        (lambda: masked.masked_cross_entropy(jnp.ones((2, 3, 4)), jnp.ones((2, 3), int), jnp.ones((3, 2))), "weights"),
        (lambda: masked.next_sentence(jnp.ones((4, 3)), jnp.ones(4, int)), r"\(4, 3\)"),
        (lambda: masked.next_sentence(jnp.ones((4, 2)), jnp.ones((4, 1), int)), r"\(4, 1\)"),
        (lambda: masked.cross_entropy(jnp.ones((4, 3)), jnp.ones(3, int)), r"\(3,\)"),
        (lambda: masked.cross_entropy(jnp.ones((4, 3)), jnp.ones(4, int), jnp.ones(3)), r"weights \(3,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, message):
    with pytest.raises(BadInputError, match=message):
        call()
