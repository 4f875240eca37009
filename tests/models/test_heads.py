import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax.models import heads
from ssljax.types import BadInputError
from tests.oracles import expected, models_oracles

X = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)


def numpy_mlp(params, x, layers, *, norms, affine):
    """BatchNorm by the batch, in NumPy."""
    x = x.astype(np.float64)
    for i in range(1, layers + 1):
        x = x @ np.asarray(params[f"dense{i}"]["kernel"]) + np.asarray(params[f"dense{i}"].get("bias", 0.0))
        if i in norms:
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
            if i in affine:
                x = x * np.asarray(params[f"bn{i}"]["scale"]) + np.asarray(params[f"bn{i}"]["bias"])
        x = x if i == layers else np.maximum(x, 0)
    return x


@pytest.mark.parametrize(
    ("options", "norms", "affine"),
    [
        ({}, (), ()),
        ({"batch_norm": True}, (1, 2), (1, 2)),
        ({"batch_norm": True, "last_batch_norm": True, "bias": False, "last_bias": False}, (1, 2, 3), (1, 2, 3)),
        ({"batch_norm": True, "last_batch_norm": True, "last_affine": False}, (1, 2, 3), (1, 2)),
        ({"last_batch_norm": True}, (3,), (3,)),
    ],
)
def test_mlp_is_dense_norm_relu(options, norms, affine):
    head = heads.mlp((7, 5, 4), **options)
    params, stats = head.init(jax.random.key(0), X)
    # off their initial ones and zeros
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * np.cos(np.arange(leaf.size, dtype="f4")).reshape(leaf.shape), params
    )
    y, _ = jax.jit(head.apply, static_argnames="train")(params, stats, X, train=True)
    np.testing.assert_allclose(y, numpy_mlp(params, X, 3, norms=norms, affine=affine), rtol=1e-4, atol=1e-4)
    assert {name for name in params if name.startswith("bn")} == {f"bn{i}" for i in affine}
    assert set(stats) == {f"bn{i}" for i in norms}
    hidden, last = options.get("bias", True), options.get("last_bias", True)
    assert ["bias" in params[f"dense{i}"] for i in (1, 2, 3)] == [hidden, hidden, last]


def test_groups_reach_the_norm():
    head, alone = heads.mlp((4, 3), batch_norm=True, groups=2), heads.mlp((4, 3), batch_norm=True)
    params, stats = head.init(jax.random.key(0), X)
    y, _ = head.apply(params, stats, X, train=True)
    halves = [alone.apply(params, stats, half, train=True)[0] for half in np.split(X, 2)]
    np.testing.assert_allclose(y, np.concatenate(halves), atol=1e-5)


def test_linear_starts_as_torch_linear():
    x = np.ones((2, 400), np.float32)
    params, stats = heads.linear(3000).init(jax.random.key(0), x)
    dense = params["dense1"]
    for name, bound in expected(models_oracles.linear_init_torch.__name__).items():
        np.testing.assert_allclose(np.abs(dense[name]).max(), bound, rtol=2e-3)
        np.testing.assert_allclose(np.std(dense[name]), bound / np.sqrt(3), rtol=3e-2)
    y, _ = heads.linear(3000).apply(params, stats, x, train=False)
    np.testing.assert_allclose(y, x @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])[None], atol=1e-5)


def test_linear_without_bias():
    params, stats = heads.linear(3, bias=False).init(jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, params) == {"dense1": {"kernel": (6, 3)}}
    assert stats == {}


def test_bfloat16_is_within_its_rounding_and_comes_back_as_float32():
    options = {"batch_norm": True, "last_batch_norm": True}
    params, stats = heads.mlp((16, 4), **options).init(jax.random.key(0), X)
    y, new_stats = heads.mlp((16, 4), dtype=jnp.bfloat16, **options).apply(params, stats, X, train=True)
    exact, _ = heads.mlp((16, 4), **options).apply(params, stats, X, train=True)
    assert {leaf.dtype for leaf in jax.tree.leaves((y, new_stats))} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(y, exact, atol=0.06)


@pytest.mark.parametrize("features", [(), (8, 0)])
def test_a_head_without_outputs_is_refused(features):
    with pytest.raises(BadInputError, match="features"):
        heads.mlp(features)
