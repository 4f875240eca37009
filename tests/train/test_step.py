"""The step: the same losses on any number of devices, one compilation, state in and out."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import optim, sharding
from ssljax.train.state import init_state
from ssljax.train.step import compile_step, train_step
from tests.train import dense, toy


@functools.cache
def losses_without_a_mesh(method):
    return toy.losses(method)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("method", ["moco", "simclr"])
def test_losses_are_the_same_on_any_number_of_devices(method, devices):
    want = losses_without_a_mesh(method)
    assert len(set(want)) == len(want)  # it does learn something
    with sharding.use_mesh(sharding.make_mesh(devices)):
        np.testing.assert_allclose(toy.losses(method), want, rtol=1e-5)


def start(devices):
    method, two_views, optimizer = toy.make("moco")
    shapes = {"image": jax.ShapeDtypeStruct((toy.BATCH, toy.SIDE, toy.SIDE, 3), jnp.uint8)}
    return method, two_views, optimizer, init_state(method, optimizer, two_views, shapes, seed=0)


@pytest.mark.parametrize("devices", [1, 8])
def test_the_step_is_traced_and_compiled_once(devices, monkeypatch):
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **kwargs: (
            compilations.append(event) if event.endswith("backend_compile_duration") else None
        )
    )
    with sharding.use_mesh(sharding.make_mesh(devices)):
        method, two_views, optimizer, state = start(devices)
        chex.clear_trace_counter()
        traced_once = chex.assert_max_traces(n=1)(train_step)
        monkeypatch.setattr("ssljax.train.step.train_step", traced_once)
        step = compile_step(method, two_views, optimizer)
        batches = [sharding.shard_batch(batch) for batch in toy.picture_batches(3)]
        state, _ = step(state, batches[0])
        compilations.clear()
        for batch in batches[1:]:
            state, _ = step(state, batch)
        assert compilations == []
    assert int(state.step) == 3


def test_the_state_keeps_its_types_and_is_donated():
    with sharding.use_mesh(sharding.make_mesh(8)):
        method, two_views, optimizer, state = start(8)
        before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), state)
        kernel = state.params["backbone"]["conv1"]["kernel"]
        step = compile_step(method, two_views, optimizer)
        state, metrics = step(state, sharding.shard_batch(toy.picture_batches(1)[0]))
        after = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), state)
        assert jax.tree.leaves(before) == jax.tree.leaves(after)
        assert kernel.is_deleted()
        assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
        assert int(metrics.pop("guard").total) == 0
        assert all(metric.shape == () for metric in metrics.values())
        assert {"loss", "pretext_top1", "embedding_std", "grad_norm"} <= metrics.keys()


def test_an_update_copies_none_of_the_moments_that_it_replaces():
    recipe = dense.recipe()
    optimizer = optim.adamw(0.1, weight_decay=0.1)
    task, method, _ = dense.parts(recipe)
    state = init_state(method, optimizer, recipe.views, task.batch_shapes[0], seed=0)
    batch = next(iter(task.batches(0, 1, 0)))
    found = compile_step(method, recipe.views, optimizer).lower(state, batch).compile().as_text() or ""
    shape = ",".join(map(str, state.params["kernel"].shape))
    assert f"f32[{shape}]" in found
    assert not re.findall(rf"f32\[{shape}\]\S* copy\(\S*opt_state", found)


def test_steps_draw_different_views_and_the_same_ones_when_repeated():
    method, two_views, optimizer, state = start(None)
    batch = sharding.shard_batch(toy.picture_batches(1)[0])
    step = functools.partial(train_step, method=method, views=two_views, optimizer=optimizer)
    loss = jax.jit(lambda state: step(state, batch)[1]["loss"])
    assert float(loss(state)) == float(loss(state))
    assert float(loss(state)) != float(loss(dataclasses.replace(state, step=state.step + 1)))


def test_schedules_are_logged_at_the_values_that_the_update_used():
    method, two_views, _, _ = start(None)
    optimizer = optim.sgd(lambda step: jnp.asarray(0.5, jnp.float32) ** step, momentum=0.0, weight_decay=0.0)
    shapes = {"image": jax.ShapeDtypeStruct((toy.BATCH, toy.SIDE, toy.SIDE, 3), jnp.uint8)}
    state = init_state(method, optimizer, two_views, shapes, seed=0)
    step = jax.jit(functools.partial(train_step, method=method, views=two_views, optimizer=optimizer))
    gradient_of = jax.jit(lambda state, batch: gradient(method, two_views, state, batch))
    for number, batch in enumerate(toy.picture_batches(3)):
        grads = gradient_of(state, batch)
        after, metrics = step(state, batch)
        assert float(metrics["lr"]) == 0.5**number
        wanted = jax.tree.map(lambda old, grad, rate=0.5**number: old - rate * grad, state.params, grads)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6), after.params, wanted)
        state = after


def gradient(method, views, state, batch):
    views_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    loss = functools.partial(method.loss, aux=state.aux, batch=views(views_key, **batch), key=loss_key, step=state.step)
    return jax.grad(lambda params: loss(params)[0])(state.params)


@pytest.mark.parametrize("rate", [jnp.nan, jnp.inf])
def test_an_update_that_is_not_finite_changes_nothing(rate):
    method, two_views, _, _ = start(None)
    optimizer = optim.sgd(lambda step: jnp.where(step == 1, rate, 0.1))
    shapes = {"image": jax.ShapeDtypeStruct((toy.BATCH, toy.SIDE, toy.SIDE, 3), jnp.uint8)}
    state = init_state(method, optimizer, two_views, shapes, seed=0)
    step = jax.jit(functools.partial(train_step, method=method, views=two_views, optimizer=optimizer))
    batches = toy.picture_batches(3)
    good, _ = step(state, batches[0])
    kept, metrics = step(good, batches[1])
    assert np.isfinite(metrics["loss"])
    assert np.isfinite(metrics["grad_norm"])
    assert int(metrics["guard"].total) == 1
    found, before = ((state.params, state.aux, state.opt_state) for state in (kept, good))
    jax.tree.map(np.testing.assert_array_equal, found, before)


def test_a_step_gets_its_number_and_parameters_come_back_from_after_update():
    seen = dense.method()

    def loss(params, aux, batch, key, step):
        value, (aux, metrics) = seen.loss(params, aux, batch, key, step)
        return value, (aux, metrics | {"number": step.astype(jnp.float32)})

    def after_update(params, aux, step):
        params = {"kernel": params["kernel"] / jnp.linalg.norm(params["kernel"])}
        return params, {"ema": params["kernel"] * step}

    method = seen._replace(loss=loss, after_update=after_update)
    recipe, optimizer = dense.recipe(), optim.sgd(0.1)
    task = recipe.task()
    state = init_state(method, optimizer, recipe.views, task.batch_shapes[0], seed=0)
    step = compile_step(method, recipe.views, optimizer)
    for number, batch in enumerate(task.batches(0, 3, 0)):
        state, metrics = step(state, batch)
        assert float(metrics["number"]) == number
        np.testing.assert_allclose(np.linalg.norm(state.params["kernel"]), 1, rtol=1e-6)
        np.testing.assert_allclose(state.aux["ema"], number * state.params["kernel"], rtol=1e-6)
