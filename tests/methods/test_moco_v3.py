"""MoCo v3 against its official step in PyTorch, on any number of devices, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import ema, optim, sharding
from ssljax.methods.moco_v3 import moco_v3
from ssljax.models import heads, resnet
from ssljax.train.guard import Guard
from ssljax.train.state import TrainState, init_state
from ssljax.train.step import compile_step
from ssljax.types import BadInputError
from tests.oracles import expected
from tests.oracles import moco_v3_oracles as official


def schedule(step):
    return ema.cosine_momentum(official.MOMENTUM, step, official.TOTAL)


def encoders(dim=official.DIM):
    plain = {"batch_norm": True, "bias": False, "last_bias": False}
    return (
        resnet.resnet((1,), stem="cifar", width=official.WIDTH),
        heads.mlp((official.HIDDEN, official.DIM), last_batch_norm=True, last_affine=False, **plain),
        heads.mlp((official.HIDDEN, dim), **plain),
    )


def method(**options):
    return moco_v3(*encoders(), **{"temperature": official.TEMPERATURE, "momentum": schedule, **options})


def two_views(step=0):
    view_1, view_2 = official.inputs()["views"][step]
    return {"view_1": view_1, "view_2": view_2}


def no_views(key, **batch):
    return batch


def flat(tree):
    return {"/".join(part.key for part in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def filled(tree):
    """The tree with the oracle's weights, in arrays of its own."""
    weights = official.inputs()["weights"]
    return jax.tree_util.tree_map_with_path(lambda path, _: jnp.array(weights["/".join(p.key for p in path)]), tree)


def start(tested):
    params, aux = jax.eval_shape(tested.init, jax.random.key(0), two_views())
    assert {name: leaf.shape for name, leaf in flat(params).items()} == official.SHAPES
    fresh = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full(leaf.shape, float(path[-1].key == "var")), (aux.stats, aux.key_stats)
    )
    return filled(params), dataclasses.replace(
        aux, stats=fresh[0], key_params=filled(aux.key_params), key_stats=fresh[1]
    )


def train(steps):
    tested = method()
    rate = optim.cosine(official.RATE, official.TOTAL, official.WARMUP)
    optimizer = optim.lars(rate, lr_in_momentum=False, weight_decay=official.DECAY, trust_coefficient=official.TRUST)
    params, aux = start(tested)
    state = TrainState(jnp.int32(0), params, aux, optimizer.init(params), jax.random.key(1), Guard.new())
    step, state, losses = compile_step(tested, no_views, optimizer), sharding.gather(state), []
    for i in range(steps):
        state, metrics = step(state, sharding.shard_batch(two_views(i)))
        losses.append(float(metrics["loss"]))
    return np.array(losses), state


def test_twelve_steps_equal_the_official_ones():
    losses, state = train(official.STEPS)
    want = expected("moco_v3_steps")
    np.testing.assert_allclose(losses, want["losses"], rtol=1e-4)
    found = {"query": state.params, "key": state.aux.key_params}
    for name, value in (
        (f"{kind}/{name}", value) for kind, tree in found.items() for name, value in flat(tree).items()
    ):
        scale = np.abs(want[name]).max()
        np.testing.assert_allclose(value, want[name], rtol=1e-4, atol=1e-4 * scale, err_msg=name)
    for kind, tree in (("query_stats", state.aux.stats), ("key_stats", state.aux.key_stats)):
        values = flat(tree)
        assert {name.rpartition("/")[0] for name in values} == {
            name.removeprefix(f"{kind}/") for name in want if name.startswith(f"{kind}/")
        }
        for name in {name.rpartition("/")[0] for name in values}:
            got = np.stack([values[f"{name}/mean"], values[f"{name}/var"]])
            np.testing.assert_allclose(got, want[f"{kind}/{name}"], rtol=1e-4, atol=1e-4, err_msg=name)


def test_losses_are_the_official_ones_on_any_number_of_devices(each_mesh):
    losses, _ = train(steps=5)
    np.testing.assert_allclose(losses, expected("moco_v3_steps")["losses"][:5], rtol=1e-5)


def test_the_momentum_update_has_the_next_steps_momentum_and_leaves_the_predictor_out():
    tested = method()
    params, aux = start(tested)
    assert sorted(aux.key_params) == ["backbone", "projector"]
    assert sorted(aux.stats) == ["backbone", "predictor", "projector"]
    moved = jax.tree.map(lambda leaf: leaf + 1, params)
    for step in (0, 7, official.TOTAL - 1):
        params_after, aux_after = tested.after_update(moved, aux, jnp.int32(step))
        assert params_after is moved
        after = flat(aux_after.key_params)
        for name, value in flat(aux.key_params).items():
            np.testing.assert_allclose(after[name], value + 1 - official.momentum_at(step + 1), rtol=1e-5, atol=1e-6)
    _, aux_fixed = method(momentum=0.75).after_update(moved, aux, jnp.int32(3))
    fixed = flat(aux_fixed.key_params)
    for name, value in flat(aux.key_params).items():
        np.testing.assert_allclose(fixed[name], value + 0.25, rtol=1e-5, atol=1e-6)


def test_the_first_momentum_update_of_the_official_order_changes_nothing():
    params, aux = jax.jit(method().init)(jax.random.key(0), two_views())
    for name, value in flat(aux.key_params).items():
        np.testing.assert_array_equal(value, flat(params)[name], err_msg=name)
    moved = flat(ema.ema(aux.key_params, {name: params[name] for name in aux.key_params}, official.momentum_at(0)))
    for name, value in flat(aux.key_params).items():
        np.testing.assert_allclose(moved[name], value, rtol=1e-6, err_msg=name)


def test_no_gradient_reaches_the_key_encoder_and_all_of_the_query_side_has_one():
    tested = method()
    params, aux = start(tested)

    @jax.jit
    def gradients(params, key_params):
        def loss(params, key_params):
            held = dataclasses.replace(aux, key_params=key_params)
            return tested.loss(params, held, two_views(), jax.random.key(1), jnp.int32(0))[0]

        return jax.grad(loss, (0, 1))(params, key_params)

    of_query, of_keys = gradients(params, aux.key_params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(of_keys))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(of_query))


def test_both_directions_are_summed_and_the_metrics_are_the_first_ones():
    tested = method()
    params, aux = start(tested)
    views, key, step = two_views(), jax.random.key(1), jnp.int32(7)
    loss, (_, metrics) = jax.jit(tested.loss)(params, aux, views, key, step)
    swapped, _ = jax.jit(tested.loss)(params, aux, {"view_1": views["view_2"], "view_2": views["view_1"]}, key, step)
    np.testing.assert_allclose(loss, swapped, rtol=1e-5)
    np.testing.assert_allclose(loss, expected("moco_v3_steps")["losses"][0], rtol=1e-5)
    assert metrics.keys() == {"loss", "momentum", "pretext_top1", "embedding_std", "alignment"}
    # the one that the average after this step has
    np.testing.assert_allclose(metrics["momentum"], official.momentum_at(8), rtol=1e-6)
    assert float(metrics["loss"]) == float(loss)
    assert 0 <= float(metrics["pretext_top1"]) <= 100


def test_features_are_those_of_eval_mode_without_the_predictor():
    backbone, projector, _ = encoders()
    params, aux = start(method())
    image = jnp.asarray(two_views()["view_1"][:3])
    features = method().features(params, aux, image)
    assert (features["backbone"].shape, features["embedding"].shape) == ((3, official.WIDTH), (3, official.DIM))
    want, _ = backbone.apply(params["backbone"], aux.stats["backbone"], image, train=False)
    np.testing.assert_array_equal(features["backbone"], want)
    want, _ = projector.apply(params["projector"], aux.stats["projector"], want, train=False)
    np.testing.assert_array_equal(features["embedding"], want)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0}, "temperature=0"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"momentum": 1.1}, "momentum=1.1"),
        ({"momentum": -0.1}, "momentum=-0.1"),
    ],
)
def test_bad_options_are_refused_when_the_method_is_made(options, words):
    with pytest.raises(BadInputError, match=words):
        method(**options)


def trace(tested, rows):
    view = jax.ShapeDtypeStruct((rows, 8, 8, 3), jnp.float32)

    def once(view):
        params, aux = tested.init(jax.random.key(0), {"view_1": view})
        loss, (aux, _) = tested.loss(params, aux, {"view_1": view, "view_2": view}, jax.random.key(1), jnp.int32(0))
        return loss, tested.after_update(params, aux, jnp.int32(0))

    jax.eval_shape(once, view)


@pytest.mark.parametrize(
    ("rows", "tested", "words"),
    [
        (1, method(), "batch_size=1: the negatives are the batch's other pictures"),
        (4, moco_v3(*encoders(dim=5)), r"keys has shape \(4, 8\); .* as wide as query \(4, 5\)"),
        (4, method(momentum=lambda step: ema.cosine_momentum(1.5, step, 10)), r"momentum=1\.5"),
        (4, method(momentum=lambda step: 2.0), r"momentum=2\.0"),
    ],
)
def test_what_does_not_fit_is_refused_before_compilation(rows, tested, words):
    with pytest.raises(BadInputError, match=words):
        trace(tested, rows)


def test_a_batch_that_does_not_divide_over_the_devices_is_refused():
    with (
        sharding.use_mesh(sharding.make_mesh(8)),
        pytest.raises(BadInputError, match="batch_size=12 does not divide over the 8 devices"),
    ):
        init_state(method(), optim.sgd(0.1), no_views, {"view_1": jnp.zeros((12, 8, 8, 3))}, seed=0)
