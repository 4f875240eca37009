import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.ema import check_momentum, cosine_momentum, ema, fixed_momentum
from ssljax.types import BadInputError


def trees():
    generator = np.random.default_rng(0)
    return [
        {"kernel": jnp.asarray(generator.normal(size=(3, 4)), jnp.float32), "layers": [jnp.ones(2) * i]}
        for i in range(2)
    ]


@pytest.mark.parametrize("momentum", [0.0, 0.25, 0.999, 1.0])
def test_each_leaf_moves_towards_the_online_one(momentum):
    target, online = trees()
    result = jax.jit(ema)(target, online, momentum)
    by_hand = jax.tree.map(lambda t, o: momentum * np.float64(t) + (1 - momentum) * np.float64(o), target, online)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), result, by_hand)
    if momentum in (0.0, 1.0):
        jax.tree.map(np.testing.assert_array_equal, result, target if momentum else online)


def test_steps_add_up_to_the_geometric_series():
    target, online = {"w": jnp.zeros(3)}, {"w": jnp.ones(3)}
    for _ in range(10):
        target = ema(target, online, 0.9)
    np.testing.assert_allclose(target["w"], 1 - 0.9**10, rtol=1e-6)


def test_dtypes_are_the_targets_and_counters_are_copied():
    target = {"wide": jnp.ones(2), "narrow": jnp.ones(2, jnp.bfloat16), "count": jnp.int32(1)}
    online = {"wide": jnp.zeros(2, jnp.bfloat16), "narrow": jnp.zeros(2), "count": jnp.int32(7)}
    result = ema(target, online, 0.5)
    assert jax.tree.map(lambda x: x.dtype, result) == jax.tree.map(lambda x: x.dtype, target)
    assert result["count"] == 7
    np.testing.assert_array_equal(result["wide"], [0.5, 0.5])


def test_no_gradient_passes_to_the_online_tree():
    gradient = jax.grad(lambda online: ema({"w": jnp.ones(2)}, online, 0.5)["w"].sum())({"w": jnp.ones(2)})
    np.testing.assert_array_equal(gradient["w"], [0, 0])


def test_the_same_on_every_mesh(each_mesh):
    target, online = (sharding.shard({"w": jnp.arange(8.0) * i}) for i in (1, 2))
    np.testing.assert_allclose(jax.jit(ema)(target, online, 0.75)["w"], 1.25 * np.arange(8), rtol=1e-6)


@pytest.mark.parametrize(("base", "total"), [(0.996, 1000), (0.99, 7), (0.0, 3)])
def test_cosine_momentum_value_by_value(base, total):
    schedule = jax.jit(cosine_momentum, static_argnums=(0, 2))
    for step in (0, 1, total // 2, total - 1, total):
        value = 1 - (1 - base) * (np.cos(np.pi * step / total) + 1) / 2
        np.testing.assert_allclose(schedule(base, step, total), value, rtol=1e-6)
        np.testing.assert_allclose(cosine_momentum(base, step, total), value, rtol=1e-6)
    assert schedule(base, 2 * total, total) == 1


def test_fixed_momentum_stays():
    assert [fixed_momentum(0.999, step, 10) for step in (0, 5, 10)] == [0.999] * 3


@pytest.mark.parametrize("momentum", [-0.1, 1.001, float("nan"), np.float32(2)])
def test_a_momentum_outside_0_1_is_refused(momentum):
    tree = {"w": jnp.ones(2)}
    for call in (
        lambda: check_momentum(momentum),
        lambda: ema(tree, tree, momentum),
        lambda: cosine_momentum(momentum, 0, 10),
        lambda: fixed_momentum(momentum, 0, 10),
    ):
        with pytest.raises(BadInputError, match="momentum="):
            call()


def test_a_schedule_without_steps_is_refused():
    with pytest.raises(BadInputError, match="total_steps=0"):
        cosine_momentum(0.9, 0, 0)
