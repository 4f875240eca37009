"""Clipping, holding and layer-wise rates against torch; the schedule of the weight decay in `test_optimizer`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssljax import optim, sharding
from ssljax.types import BadInputError
from tests.oracles import expected
from tests.oracles.optim_oracles import (
    HELD,
    LAYER_DECAY,
    LAYERS,
    LIMIT,
    RATES,
    STEPS,
    depth_of,
    tree_of_several_shapes,
)


def changing_rate(step):
    return jnp.asarray(RATES, jnp.float32)[step]


def nested(flat):
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        part, leaf = name.split(".")
        tree.setdefault(part, {})[leaf] = value
    return tree


def trajectory(rule):
    """The parameters after each step, `{"part.leaf": [STEPS, ...]}`."""
    start, gradients = tree_of_several_shapes()
    parameters: Any = sharding.gather(nested(jax.tree.map(jnp.asarray, start)))
    state, history = rule.init(parameters), []

    @jax.jit
    def update(parameters, state, gradient):
        updates, state = rule.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state

    for step in range(STEPS):
        parameters, state = update(parameters, state, nested({name: g[step] for name, g in gradients.items()}))
        history.append({name: np.asarray(parameters[name.split(".")[0]][name.split(".")[1]]) for name in start})
    return {name: np.stack([parameters[name] for parameters in history]) for name in start}


def assert_follows(rule, case):
    for name, values in trajectory(rule).items():
        reference = expected("per_parameter_torch")[f"{case}_{name}"]
        np.testing.assert_allclose(values, reference, rtol=1e-5, atol=5e-6, err_msg=name)


def plain_adamw(rate=changing_rate):
    return optim.adamw(rate, weight_decay=0.3, mask=None)


def test_some_gradients_of_the_tree_are_clipped_and_some_are_not():
    norms = [np.linalg.norm(g.reshape(STEPS, -1), axis=1) for g in tree_of_several_shapes()[1].values()]
    assert 0.2 < np.mean(np.array(norms) > LIMIT) < 0.8


def test_clip_per_tensor_is_torchs_step_by_step(each_mesh):
    assert_follows(optim.chain(optim.clip_per_tensor(LIMIT), optim.sgd(changing_rate, 0.0, 0.0)), "clipped")


def test_hold_updates_is_torchs_adamw_with_the_first_updates_undone(each_mesh):
    mask = nested({name: name == "head.kernel" for name in tree_of_several_shapes()[0]})
    assert_follows(optim.chain(plain_adamw(), optim.hold_updates(mask, HELD)), "held")


def test_layer_scales_is_a_rate_for_each_of_torchs_groups(each_mesh):
    rule = optim.chain(plain_adamw(), optim.layer_scales(depth_of, LAYERS, LAYER_DECAY))
    assert_follows(rule, "layers")


def test_clip_per_tensor_in_bfloat16_and_at_zero():
    gradients = {"long": jnp.full((64, 64), 3.0, jnp.bfloat16), "zero": jnp.zeros(3), "scalar": jnp.float32(-5)}
    clipped: Any = optim.clip_per_tensor(1.0).update(gradients, optax.EmptyState())[0]
    assert jax.tree.map(lambda leaf: leaf.dtype, clipped) == jax.tree.map(lambda leaf: leaf.dtype, gradients)
    # each of 4096 equal entries
    np.testing.assert_allclose(clipped["long"].astype(jnp.float32), 1 / 64, rtol=1e-2)
    np.testing.assert_array_equal(clipped["zero"], np.zeros(3))
    np.testing.assert_allclose(clipped["scalar"], -1.0, rtol=1e-5)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_updates_are_held_for_so_many_steps_and_no_longer(steps):
    updates = {"held": {"a": jnp.ones(2), "b": jnp.ones(())}, "free": jnp.ones(3)}
    for mask in ({"held": True, "free": False}, lambda tree: jax.tree.map(lambda leaf: leaf.ndim < 2, tree), None):
        rule = optim.hold_updates(mask, steps)
        state: Any = rule.init(updates)
        sums = []
        for _ in range(5):
            moved: Any
            moved, state = rule.update(updates, state)
            sums.append([float(moved["held"]["a"].sum()), float(moved["free"].sum())])
        assert [held for held, _ in sums] == [0.0] * steps + [2.0] * (5 - steps)
        assert [free for _, free in sums] == (
            [3.0] * 5 if isinstance(mask, dict) else [0.0] * steps + [3.0] * (5 - steps)
        )
        assert int(state.count) == 5


def test_a_held_parameter_does_not_decay_though_its_gradient_is_zero():
    parameters = {"last": jnp.ones((2, 2)), "other": jnp.ones((2, 2))}
    rule = optim.chain(plain_adamw(0.1), optim.hold_updates({"last": True, "other": False}, 1))
    updates: Any = rule.update(jax.tree.map(jnp.zeros_like, parameters), rule.init(parameters), parameters)[0]
    np.testing.assert_array_equal(updates["last"], np.zeros((2, 2)))
    np.testing.assert_allclose(updates["other"], -0.1 * 0.3, rtol=1e-6)


def test_layer_scales_gets_whole_paths():
    seen = []

    def depth_of(path):
        seen.append(path)
        return 1

    updates = {"backbone": {"block_0": [jnp.ones(2), jnp.ones(2)]}, "head": jnp.ones(2)}
    scaled: Any = optim.layer_scales(depth_of, 3, 0.5).update(updates, optax.EmptyState())[0]
    assert seen == ["backbone/block_0/0", "backbone/block_0/1", "head"]
    np.testing.assert_array_equal(scaled["head"], [0.25, 0.25])


def test_what_cannot_be_is_refused():
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(BadInputError, match=f"limit={limit}"):
            optim.clip_per_tensor(limit)
    with pytest.raises(BadInputError, match="steps=-1"):
        optim.hold_updates(None, -1)
    for decay in (0.0, 1.5):
        with pytest.raises(BadInputError, match=f"decay={decay}"):
            optim.layer_scales(depth_of, LAYERS, decay)
    for depth in (-1, 4):
        with pytest.raises(BadInputError, match=f"head the layer {depth}: .* layers=3"):
            optim.layer_scales(lambda path, depth=depth: depth, 3, 0.5).init({"head": jnp.ones(2)})
