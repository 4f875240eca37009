import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssljax import sharding
from ssljax.models.from_linen import from_linen
from ssljax.models.norm import BatchNorm
from ssljax.types import BadInputError
from tests.oracles import expected, models_oracles

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


def random(seed, *shape):
    return np.random.default_rng(seed).normal(1, 2, shape).astype(np.float32)


def apply(groups, x, train=True, **options):
    encoder = from_linen(BatchNorm(groups=groups, **options))
    C = x.shape[-1]
    params = {"scale": jnp.asarray(random(1, C)), "bias": jnp.asarray(random(2, C))}
    stats = {"mean": jnp.zeros(C), "var": jnp.ones(C)}
    return encoder.apply(params, stats, x, train=train)


def loss(params, x, stats, groups):
    y, stats = from_linen(BatchNorm(groups=groups)).apply(params, stats, x, train=True)
    return jnp.mean(jnp.sin(y) + y**2 / 7), (y, stats)


def everything(groups, devices, x):
    """Outputs, statistics and gradients on a mesh."""
    C = x.shape[-1]
    params = {"scale": jnp.asarray(random(1, C)), "bias": jnp.asarray(random(2, C))}
    stats = {"mean": jnp.asarray(random(3, C)), "var": jnp.ones(C)}
    with sharding.use_mesh(None if devices is None else sharding.make_mesh(devices)):
        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), static_argnums=3)
        return jax.device_get(step(params, sharding.shard(x), stats, groups))


@pytest.mark.parametrize("groups", models_oracles.GROUPS)
def test_two_training_steps_gradients_and_eval_are_those_of_torch(groups):
    want = {k.split(" ", 1)[1]: v for k, v in expected("batch_norm_torch").items() if k.startswith(f"{groups} ")}
    encoder = from_linen(BatchNorm(groups=groups))
    params = {name: jnp.asarray(models_oracles.random(name, (4,))) for name in ("scale", "bias")}
    stats = {"mean": jnp.zeros(4), "var": jnp.ones(4)}
    cotangent = models_oracles.random("cotangent", (8, 5, 3, 4))
    for step in range(models_oracles.STEPS):
        x = jnp.asarray(models_oracles.activations(step))
        (y, new_stats), pull = jax.vjp(lambda p, x, s=stats: encoder.apply(p, s, x, train=True), params, x)
        np.testing.assert_allclose(y, want[f"y{step}"], atol=2e-6)
        grads, dx = pull((jnp.asarray(cotangent), jax.tree.map(jnp.zeros_like, new_stats)))
        stats = new_stats
    np.testing.assert_allclose(dx, want["dx"], atol=3e-6)
    np.testing.assert_allclose(grads["scale"], want["dscale"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grads["bias"], want["dbias"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(stats["mean"], want["running_mean"], rtol=1e-6)
    np.testing.assert_allclose(stats["var"], want["running_var"], rtol=1e-5)
    y, kept = encoder.apply(params, stats, x, train=False)
    np.testing.assert_allclose(y, want["eval"], atol=3e-6)
    assert kept is stats


@pytest.mark.parametrize(("groups", "shape"), [(1, (16, 5)), (2, (32, 3, 2, 4)), (8, (16, 5)), (16, (32, 3, 2, 4))])
def test_any_number_of_devices_gives_the_same_groups(groups, shape):
    x = random(0, *shape)
    alone = everything(groups, None, x)
    for devices in (1, 2, 8):
        found = everything(groups, devices, x)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-6), found, alone)


@pytest.mark.parametrize(("groups", "talks"), [(8, False), (16, False), (1, True), (2, True)])
def test_only_groups_that_span_devices_communicate(groups, talks):
    with sharding.use_mesh(sharding.make_mesh(8)):
        x = sharding.shard(random(0, 32, 4, 4, 3))
        text = jax.jit(lambda x: apply(groups, x)[0]).lower(x).compile().as_text()
    assert any(name in (text or "") for name in COLLECTIVES) == talks


def test_a_group_is_a_consecutive_slice():
    x = random(0, 12, 3, 3, 2)
    y, stats = apply(3, x)
    parts = [apply(1, part) for part in np.split(x, 3)]
    np.testing.assert_allclose(y, np.concatenate([part[0] for part in parts]), atol=1e-6)
    np.testing.assert_allclose(stats["mean"], np.mean([part[1]["mean"] for part in parts], 0), atol=1e-6)
    np.testing.assert_allclose(stats["var"], np.mean([part[1]["var"] for part in parts], 0), rtol=1e-6)


def test_a_mean_far_above_the_spread_costs_no_precision_once_the_running_mean_is_near():
    x = random(0, 64, 3) + np.float32(4096)
    encoder = from_linen(BatchNorm(use_scale=False, use_bias=False))
    params, stats = {}, {"mean": jnp.full(3, 4096.0), "var": jnp.ones(3)}
    y, _ = encoder.apply(params, stats, x, train=True)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(y, (wide - wide.mean(0)) / np.sqrt(wide.var(0) + 1e-5), atol=1e-3)


@pytest.mark.parametrize("offset", [100, 1000])
def test_four_numbers_far_from_the_initial_running_mean_are_normalised(offset):
    x = np.float32(offset) + np.array([[0.0], [0.1], [0.2], [0.3]], np.float32)
    y, _ = from_linen(BatchNorm()).apply(*fresh(1), x, train=True)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(y, (wide - wide.mean(0)) / np.sqrt(wide.var(0) + 1e-5), atol=1e-5)


def fresh(C):
    return {"scale": jnp.ones(C), "bias": jnp.zeros(C)}, {"mean": jnp.zeros(C), "var": jnp.ones(C)}


def off_centre(seed, ratio, shape, first=0.0):
    """Channels of different deviations and of means `ratio` times as large; the first sample is off by `first`."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    x[0] += first
    x = (x - x.mean()) / x.std() + ratio
    return (x * rng.uniform(0.1, 10, shape[-1])).astype(np.float32)


def float64_step(params, x, cotangent, groups):
    """Outputs and the gradients of x, scale and bias, derived by hand."""
    x, cotangent = (a.astype(np.float64).reshape(groups, -1, x.shape[-1]) for a in (x, cotangent))
    scale, bias = (np.asarray(params[name], np.float64) for name in ("scale", "bias"))
    inverse = 1 / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    unit = (x - x.mean(1, keepdims=True)) * inverse
    of_unit = cotangent * scale
    of_x = of_unit - of_unit.mean(1, keepdims=True) - unit * (of_unit * unit).mean(1, keepdims=True)
    return unit * scale + bias, inverse * of_x, (cotangent * unit).sum((0, 1)), cotangent.sum((0, 1))


@functools.partial(jax.jit, static_argnames="groups")
def float32_step(params, stats, x, cotangent, groups):
    def run(params, x):
        return from_linen(BatchNorm(groups=groups)).apply(params, stats, x, train=True)[0]

    y, pull = jax.vjp(run, params, x)
    of_params, of_x = pull(cotangent)
    return y, of_x, of_params["scale"], of_params["bias"]


def assert_near_float64(x, groups):
    C = x.shape[-1]
    params = {"scale": jnp.asarray(random(1, C)), "bias": jnp.asarray(random(2, C))}
    cotangent = random(3, *x.shape)
    found = float32_step(params, fresh(C)[1], sharding.shard(x), sharding.shard(cotangent), groups)
    for ours, theirs in zip(found, float64_step(params, x, cotangent, groups), strict=True):
        np.testing.assert_allclose(ours, theirs.reshape(ours.shape), rtol=0, atol=1e-4 * np.abs(theirs).max())


OFF_CENTRE = [((16, 5), 1), ((2048, 3), 1), ((16, 5), 4), ((8, 6, 5, 3), 1), ((12, 4, 4, 3), 3)]


@pytest.mark.parametrize(("shape", "groups"), OFF_CENTRE)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ratio=st.floats(-1e3, 1e3), first=st.sampled_from([0, 3, -1000]))
def test_first_steps_are_those_of_float64_for_means_far_from_zero(shape, groups, seed, ratio, first):
    assert_near_float64(off_centre(seed, ratio, shape, first), groups)


@pytest.mark.parametrize(("shape", "groups"), [((16, 5), 1), ((16, 3, 2, 4), 2), ((32, 3, 2, 4), 16), ((2048, 3), 1)])
def test_first_steps_are_those_of_float64_on_every_mesh(each_mesh, shape, groups):
    assert_near_float64(off_centre(0, 1e3, shape, 10), groups)


def test_eval_of_a_mean_far_from_zero_is_that_of_float64():
    x = off_centre(0, 1e3, (64, 3, 3, 4))
    encoder = from_linen(BatchNorm(momentum=0.0))
    params, stats = fresh(4)
    _, stats = encoder.apply(params, stats, x, train=True)
    y, _ = encoder.apply(params, stats, x, train=False)
    wide = x.astype(np.float64)
    want = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2), ddof=1) + 1e-5)
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_bfloat16_activations_far_from_zero_lose_only_their_own_rounding():
    x = jnp.asarray(off_centre(0, 30, (64, 3, 3, 4)), jnp.bfloat16)
    y, _ = from_linen(BatchNorm(dtype=jnp.float32)).apply(*fresh(4), x, train=True)
    wide = np.asarray(x, np.float64)
    want = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_a_constant_channel_becomes_the_bias():
    y, _ = apply(2, jnp.full((8, 3), 0.7))
    np.testing.assert_allclose(y, np.broadcast_to(random(2, 3), (8, 3)), atol=1e-3)


@pytest.mark.parametrize("train", [True, False])
def test_bfloat16_images_keep_float32_statistics(train):
    x = random(0, 16, 3, 3, 4)
    y, stats = apply(4, jnp.asarray(x, jnp.bfloat16), train)
    exact, exact_stats = apply(4, x, train)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=2e-2, atol=5e-2)
    np.testing.assert_allclose(stats["var"], exact_stats["var"], rtol=1e-2)


def test_without_scale_and_bias_there_are_no_parameters():
    params, stats = from_linen(BatchNorm(use_scale=False, use_bias=False)).init(jax.random.key(0), jnp.ones((4, 3)))
    assert params == {}
    np.testing.assert_array_equal(stats["var"], np.ones(3))


@pytest.mark.parametrize(
    ("groups", "shape", "says"), [(3, (8, 2), "batch of 8"), (0, (8, 2), "groups=0"), (4, (4, 2), "one value")]
)
def test_a_batch_that_does_not_fit_the_groups_is_refused(groups, shape, says):
    with pytest.raises(BadInputError, match=says):
        apply(groups, jnp.ones(shape))


def test_eval_takes_any_batch():
    assert apply(3, jnp.ones((1, 2)), train=False)[0].shape == (1, 2)
