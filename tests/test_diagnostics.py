import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import diagnostics, sharding
from ssljax.types import BadInputError
from tests.oracles.losses_oracles import normals

assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
alignment = jax.jit(diagnostics.alignment)
uniformity = jax.jit(diagnostics.uniformity)
rankme = jax.jit(diagnostics.rankme)
embedding_std = jax.jit(diagnostics.embedding_std)
topk_accuracy = jax.jit(diagnostics.topk_accuracy, static_argnums=2)


def unit(x):
    return np.asarray(x, np.float64) / np.linalg.norm(x, axis=1, keepdims=True)


def alignment_by_hand(x, y, alpha):
    return np.mean([np.linalg.norm(a - b) ** alpha for a, b in zip(unit(x), unit(y), strict=True)])


def uniformity_by_hand(x, t):
    x = unit(x)
    pairs = [np.sum((x[i] - x[j]) ** 2) for i in range(len(x)) for j in range(i)]
    return np.log(np.mean(np.exp(-t * np.array(pairs))))


def rankme_by_hand(z):
    wide = np.asarray(z, np.float64)
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(wide.T @ wide), 0))
    share = singular / singular.sum() + 1e-7
    return np.exp(-np.sum(share * np.log(share)))


@pytest.mark.parametrize(("batch", "dim"), [(8, 3), (16, 20)])
def test_by_hand_on_every_mesh(each_mesh, batch, dim):
    arrays = normals(batch, (batch, dim), (batch, dim))
    x, y = (sharding.shard(jnp.asarray(array)) for array in arrays)
    assert_close(alignment(x, y), alignment_by_hand(*arrays, alpha=2))
    assert_close(uniformity(x), uniformity_by_hand(arrays[0], 2))
    # the hand's own square root of a Gram matrix leaves 1e-8 on null directions
    np.testing.assert_allclose(rankme(x), rankme_by_hand(arrays[0]), rtol=1e-4)
    assert_close(embedding_std(x), unit(arrays[0]).std(axis=0).mean())
    labels = np.arange(batch) % dim
    ranks = [np.sum(row >= row[label]) for row, label in zip(arrays[0], labels, strict=True)]
    for k in (1, 2):
        accuracy = topk_accuracy(x, sharding.shard(jnp.asarray(labels)), k)
        np.testing.assert_allclose(accuracy, 100 * np.mean(np.array(ranks) <= k), rtol=1e-6)


def test_other_exponents_and_scales():
    x, y = normals(0, (6, 4), (6, 4))
    np.testing.assert_allclose(alignment(x, y, 1.0), alignment_by_hand(x, y, 1), rtol=1e-5)
    np.testing.assert_allclose(uniformity(x, 3.0), uniformity_by_hand(x, 3), rtol=1e-5)


def test_a_collapsed_representation_shows():
    collapsed = jnp.tile(jnp.array([[1.0, -2.0, 0.5, 3.0]]), (32, 1))
    assert alignment(collapsed, collapsed) == 0
    np.testing.assert_allclose(uniformity(collapsed), 0, atol=1e-5)
    np.testing.assert_allclose(rankme(collapsed), 1, atol=1e-4)
    np.testing.assert_allclose(embedding_std(collapsed), 0, atol=1e-6)
    zeros = jnp.zeros((32, 4))
    assert embedding_std(zeros) == 0
    assert np.isfinite(rankme(zeros))


def test_a_spread_representation_shows():
    directions = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
    np.testing.assert_allclose(embedding_std(directions), 1 / np.sqrt(16), rtol=0.02)
    assert rankme(directions) > 15.9
    np.testing.assert_allclose(rankme(np.eye(8, dtype=np.float32)), 8, rtol=1e-5)
    opposite = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_allclose(uniformity(opposite), -8, rtol=1e-6)
    np.testing.assert_allclose(alignment(opposite, -opposite), 4, rtol=1e-6)


def test_a_rank_of_one_is_not_lifted_by_rounding():
    # singular values of the Gram matrix in float32 give 1.07 here
    rows = np.outer(np.linspace(1, 2, 64), np.linspace(-1, 1, 128)).astype(np.float32)
    np.testing.assert_allclose(rankme(rows), 1, atol=1e-3)


@pytest.mark.parametrize(
    ("logits", "label", "k", "right"),
    [
        ([3.0, 1.0, 2.0], 0, 1, True),
        ([3.0, 1.0, 2.0], 2, 1, False),
        ([3.0, 1.0, 2.0], 2, 2, True),
        ([1.0, 1.0, 1.0], 0, 2, False),
        ([1.0, 1.0, 0.0], 0, 1, False),
        ([1.0, 1.0, 0.0], 0, 2, True),
        ([np.nan, 0.0, 0.0], 0, 1, False),
        ([1.0, np.nan, np.nan], 0, 2, False),
        ([np.nan] * 3, 1, 2, False),
        ([np.inf, 0.0, 0.0], 0, 1, True),
        ([-np.inf, -np.inf, -np.inf], 0, 1, False),
        ([3.0, 1.0, 2.0], 3, 2, False),
        ([3.0, 1.0, 2.0], -1, 2, False),
    ],
)
def test_ties_and_nan_count_against_a_row(logits, label, k, right):
    assert topk_accuracy(jnp.array([logits]), jnp.array([label]), k) == (100 if right else 0)


def test_what_does_not_fit_is_refused():
    logits, labels = jnp.ones((2, 3)), jnp.zeros(2, int)
    for k in (0, 3):
        with pytest.raises(BadInputError, match=f"k={k}"):
            diagnostics.topk_accuracy(logits, labels, k)
    with pytest.raises(BadInputError, match="labels"):
        diagnostics.topk_accuracy(logits, jnp.zeros(3, int))
    with pytest.raises(BadInputError, match="at least two"):
        diagnostics.uniformity(jnp.ones((1, 3)))
