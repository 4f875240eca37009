"""MoCo against its official step in PyTorch, on any number of devices, and what it refuses."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import optim, sharding
from ssljax.methods.moco import moco
from ssljax.models import heads, resnet
from ssljax.train.guard import Guard
from ssljax.train.state import TrainState, init_state
from ssljax.train.step import train_step
from ssljax.types import BadInputError
from tests.oracles import expected
from tests.oracles import moco_oracles as official

SETTINGS = {
    "queue_size": official.QUEUE,
    "momentum": official.MOMENTUM,
    "temperature": official.TEMPERATURE,
}


def encoders(groups=official.GROUPS):
    backbone = resnet.resnet((1,), stem="cifar", width=official.WIDTH, groups=groups)
    return backbone, heads.mlp((2 * official.DIM, official.DIM))


def no_views(key, **batch):
    return batch


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(part.key for part in path): np.asarray(leaf) for path, leaf in leaves}


def start(method, optimizer, given):
    """A state with the oracle's weights and queue in it."""
    views = {"view_1": jnp.asarray(given["views"][0, 0])}

    def init(key):
        params, aux = method.init(key, views)
        return params, aux

    params, aux = jax.jit(init)(jax.random.key(0))
    assert {name: value.shape for name, value in flat(params).items()} == official.SHAPES

    def fill(tree):
        def leaf(path, _):
            return jnp.array(given["weights"]["/".join(part.key for part in path)])

        return jax.tree_util.tree_map_with_path(leaf, tree)

    # two separate copies: a donated state may not hold one buffer twice
    aux = dataclasses.replace(
        aux, key_params=fill(params), queue=type(aux.queue)(jnp.array(given["queue"]), aux.queue.pointer)
    )
    params = fill(params)
    state = TrainState(jnp.int32(0), params, aux, optimizer.init(params), jax.random.key(1), Guard.new())
    return sharding.gather(state)


def train(symmetric, steps=official.STEPS):
    given = official.inputs()
    method = moco(*encoders(), symmetric=symmetric, **SETTINGS)
    optimizer = optim.sgd(official.RATE, 0.9, official.DECAY)

    @jax.jit
    def step(state, batch, orders):
        # the permutations are the oracle's, so that the same images share a BatchNorm group
        with mock.patch("jax.random.permutation", side_effect=list(orders)):
            return train_step(state, batch, method=method, views=no_views, optimizer=optimizer)

    state, losses = start(method, optimizer, given), []
    for views, orders in zip(given["views"][:steps], given["orders"], strict=False):
        batch = sharding.shard_batch({"view_1": views[0], "view_2": views[1]})
        state, metrics = step(state, batch, jnp.asarray(orders))
        losses.append(float(metrics["loss"]))
    return np.array(losses), state


@pytest.mark.parametrize("symmetric", [False, True])
def test_twenty_steps_equal_the_official_ones(symmetric):
    losses, state = train(symmetric)
    want = expected("moco_symmetric" if symmetric else "moco_asymmetric")
    np.testing.assert_allclose(losses, want["losses"], rtol=1e-4)
    np.testing.assert_allclose(state.aux.queue.keys, want["queue"], rtol=1e-4, atol=1e-4)
    assert int(state.aux.queue.pointer) == want["pointer"]
    for kind, tree in (("query", state.params), ("key", state.aux.key_params)):
        for name, value in flat(tree).items():
            scale = np.abs(want[f"{kind}/{name}"]).max()
            np.testing.assert_allclose(
                value, want[f"{kind}/{name}"], rtol=1e-4, atol=1e-4 * scale, err_msg=f"{kind}/{name}"
            )
    for kind, tree in (("query_stats", state.aux.stats), ("key_stats", state.aux.key_stats)):
        values = flat(tree)
        for name in official.NORMS:
            got = np.stack([values[f"{name}/mean"], values[f"{name}/var"]])
            np.testing.assert_allclose(got, want[f"{kind}/{name}"], rtol=1e-4, atol=1e-4, err_msg=name)


def test_eight_groups_on_one_device_equal_any_number_of_devices(each_mesh):
    losses, _ = train(symmetric=True, steps=5)
    np.testing.assert_allclose(losses, expected("moco_symmetric")["losses"][:5], rtol=1e-5)


def test_the_first_momentum_update_of_the_official_order_changes_nothing():
    given = official.inputs()
    method = moco(*encoders(), **SETTINGS)
    state = start(method, optim.sgd(0.1), given)
    params, aux = method.after_update(state.params, state.aux, state.step)
    assert params is state.params
    for name, value in flat(aux.key_params).items():
        np.testing.assert_allclose(value, given["weights"][name], rtol=1e-6, err_msg=name)


def test_the_momentum_update_reads_the_parameters_after_the_optimiser():
    _, state = train(symmetric=False, steps=1)
    given = official.inputs()["weights"]
    for name, value in flat(state.aux.key_params).items():
        want = 0.9 * given[name] + 0.1 * flat(state.params)[name]
        np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-6, err_msg=name)


def test_positives_are_not_in_the_queue_when_the_logits_are_made():
    """With one picture twice, an early enqueue would make each positive a negative: a loss of log 2 at least."""
    method = moco(*encoders(groups=1), queue_size=8, temperature=0.01, shuffle=False)
    image = np.random.default_rng(0).standard_normal((8, 8, 8, 3)).astype(np.float32)
    batch = {"view_1": jnp.asarray(image), "view_2": jnp.asarray(image)}
    params, aux = method.init(jax.random.key(0), batch)
    far = aux.queue.keys * 0
    held = dataclasses.replace(aux, queue=type(aux.queue)(far, aux.queue.pointer))
    loss, (aux, metrics) = method.loss(params, held, batch, jax.random.key(1), jnp.int32(0))
    assert float(loss) < 1e-6
    assert float(metrics["pretext_top1"]) == 100


def test_no_gradient_reaches_the_key_encoder():
    method = moco(*encoders(groups=1), queue_size=8)
    image = jnp.asarray(np.random.default_rng(0).standard_normal((8, 8, 8, 3)), jnp.float32)
    batch = {"view_1": image, "view_2": image + 0.1}
    params, aux = method.init(jax.random.key(0), batch)

    def loss(key_params):
        held = dataclasses.replace(aux, key_params=key_params)
        return method.loss(params, held, batch, jax.random.key(1), jnp.int32(0))[0]

    assert all(not np.any(leaf) for leaf in jax.tree.leaves(jax.grad(loss)(aux.key_params)))


def test_features_are_those_of_eval_mode():
    backbone, projector = encoders()
    method = moco(backbone, projector, **SETTINGS)
    image = jnp.asarray(official.inputs()["views"][0, 0])
    params, aux = method.init(jax.random.key(0), {"view_1": image})
    features = method.features(params, aux, image[:3])  # 3 does not divide into 8 groups: eval mode has none
    assert features["backbone"].shape == (3, official.WIDTH)
    assert features["embedding"].shape == (3, official.DIM)
    want, _ = backbone.apply(params["backbone"], aux.stats["backbone"], image[:3], train=False)
    np.testing.assert_array_equal(features["backbone"], want)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0}, "temperature=0"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"momentum": 1.1}, "momentum=1.1"),
        ({"momentum": -0.1}, "momentum=-0.1"),
        ({"queue_size": 0}, "queue_size=0"),
    ],
)
def test_bad_options_are_refused_when_the_method_is_made(options, words):
    with pytest.raises(BadInputError, match=words):
        moco(*encoders(), **{**SETTINGS, **options})


@pytest.mark.parametrize(
    ("queue_size", "symmetric", "groups", "words"),
    [
        (40, False, 1, "queue_size=40 must be a multiple of 16, the keys enqueued per step; use 32"),
        (48, True, 1, "queue_size=48 must be a multiple of 32, the keys enqueued per step; use 32"),
        (16, True, 1, "queue_size=16 must be a multiple of 32, the keys enqueued per step; use 32"),
        (64, False, 5, "groups=5"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_before_compilation(queue_size, symmetric, groups, words):
    method = moco(*encoders(groups), queue_size=queue_size, symmetric=symmetric)
    view = jax.ShapeDtypeStruct((16, 8, 8, 3), jnp.float32)

    def trace(view):
        batch = {"view_1": view, "view_2": view}
        params, aux = method.init(jax.random.key(0), batch)
        return method.loss(params, aux, batch, jax.random.key(1), jnp.int32(0))

    with pytest.raises(BadInputError, match=words):
        jax.eval_shape(trace, view)


def test_a_batch_that_does_not_divide_over_the_devices_is_refused():
    method = moco(*encoders(1), queue_size=60)
    with (
        sharding.use_mesh(sharding.make_mesh(8)),
        pytest.raises(BadInputError, match="batch_size=12 does not divide over the 8 devices"),
    ):
        init_state(method, optim.sgd(0.1), no_views, {"view_1": jnp.zeros((12, 8, 8, 3))}, seed=0)
