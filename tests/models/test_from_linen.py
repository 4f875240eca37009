import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ssljax.models import from_linen
from ssljax.types import BadInputError, chain


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x, scale, *, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x) * scale)
        return nn.Dropout(0.5, deterministic=not train)(x)


class Cached(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + self.variable("cache", "last", jnp.zeros, ()).value


X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def test_eval_mode_keeps_the_statistics_and_needs_no_key():
    encoder = from_linen(Noisy())
    params, stats = encoder.init(jax.random.key(0), X, 2.0)
    y, kept = encoder.apply(params, stats, X, 2.0, train=False)
    want = (X @ params["Dense_0"]["kernel"]) * 2 / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
    assert kept is stats


def test_training_moves_the_statistics_and_drops_by_the_key():
    encoder = from_linen(Noisy())
    params, stats = encoder.init(jax.random.key(0), X, 2.0)
    y, moved = encoder.apply(params, stats, X, 2.0, train=True, key=jax.random.key(1))
    again, _ = encoder.apply(params, stats, X, 2.0, train=True, key=jax.random.key(1))
    other, _ = encoder.apply(params, stats, X, 2.0, train=True, key=jax.random.key(2))
    np.testing.assert_array_equal(y, again)
    assert (np.asarray(y) == 0).any()
    assert (y != other).any()
    assert jax.tree.structure(moved) == jax.tree.structure(stats)
    assert (moved["BatchNorm_0"]["mean"] != stats["BatchNorm_0"]["mean"]).all()


@pytest.mark.parametrize("train", [True, False])
def test_a_plain_module_without_train_works(train):
    module = nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(2)])
    encoder = from_linen(module)
    params, stats = encoder.init(jax.random.key(0), X)
    y, after = encoder.apply(params, stats, X, train=train)
    kernels, biases = ([params[f"layers_{i}"][name] for i in (0, 2)] for name in ("kernel", "bias"))
    want = np.maximum(X @ kernels[0] + biases[0][None], 0) @ kernels[1] + biases[1][None]
    np.testing.assert_allclose(y, want, atol=1e-6)
    assert stats == after == {}


def test_the_same_key_gives_the_same_parameters_as_linen():
    module = nn.Dense(5)
    params, _ = from_linen(module).init(jax.random.key(3), X)
    want = module.init(jax.random.key(3), X)["params"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, want)


def test_a_chain_of_them_is_an_encoder():
    encoder = chain(backbone=from_linen(nn.Dense(5)), head=from_linen(nn.Dense(2)))
    params, stats = encoder.init(jax.random.key(0), X)
    y, _ = encoder.apply(params, stats, X, train=True, key=jax.random.key(1))
    assert y.shape == (6, 2)


def test_state_elsewhere_is_refused():
    with pytest.raises(BadInputError, match="'cache'"):
        from_linen(Cached()).init(jax.random.key(0), X)
