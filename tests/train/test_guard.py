"""Updates that are not finite leave every leaf of the state as it was; the host hears of each, late and once."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import sharding
from ssljax.train import guard
from ssljax.train.guard import Guard, Watch
from ssljax.train.state import init_state
from ssljax.train.step import compile_step
from tests.train import toy

STEPS = 6


@dataclasses.dataclass(frozen=True)
class Poisoned:
    """Views that are NaN, or whatever is given, where a pixel of the batch is 255."""

    views: Any
    poison: float

    def __call__(self, key, image):
        marked = jnp.max(image) == 255
        return jax.tree.map(lambda view: jnp.where(marked, self.poison, view), self.views(key, image=image))


def batches(bad):
    """Six batches, those whose numbers (from 1) are in `bad` marked."""
    made = toy.picture_batches(STEPS)
    for number, batch in enumerate(made, start=1):
        batch["image"] = np.minimum(batch["image"], 255 if number in bad else 254)
    return made


def start(name, poison):
    method, views, optimizer = toy.make(name)
    views = Poisoned(views, poison)
    shapes = {"image": jax.ShapeDtypeStruct((toy.BATCH, toy.SIDE, toy.SIDE, 3), jnp.uint8)}
    return init_state(method, optimizer, views, shapes, seed=0), compile_step(method, views, optimizer)


def leaves(state):
    """Path -> bytes of everything that learning changes."""
    tree = (state.params, state.aux, state.opt_state)
    found = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in found}


@pytest.mark.slow
@pytest.mark.parametrize("devices", [None, 8])
@pytest.mark.parametrize(("name", "poison"), [("moco", float("nan")), ("moco", float("inf")), ("simclr", float("nan"))])
def test_a_bad_step_leaves_every_leaf_as_it_was_and_the_next_ones_learn(name, poison, devices):
    with sharding.use_mesh(None if devices is None else sharding.make_mesh(devices)):
        state, step = start(name, poison)
        before = leaves(state)
        assert any("queue" in path for path in before) == (name == "moco")
        for number, batch in enumerate(batches({2, 3, 5}), start=1):
            state, metrics = step(state, sharding.shard_batch(batch))
            after = leaves(state)
            assert before.keys() == after.keys()
            changed = {path for path in after if before[path] != after[path]}
            if number in (2, 3, 5):
                assert not changed, changed
                # XLA:CPU's fast max can let a ReLU swallow a NaN, so the loss alone would not tell
                assert not np.isfinite(float(metrics["grad_norm"]))
            else:
                assert np.isfinite(float(metrics["loss"]))
                assert len(changed) > len(after) / 2
            before = after
        assert int(state.step) == STEPS
        found = state.guard
        assert (int(found.total), int(found.in_a_row), int(found.tripped)) == (3, 0, 0)
        assert np.asarray(found.recent)[:4].tolist() == [5, 3, 2, -1]


@pytest.mark.slow
def test_good_steps_are_not_touched_by_the_guard():
    """A run with bad steps is the run in which only the step's number moved on there."""
    state, step = start("moco", float("nan"))
    plain = jax.tree.map(jnp.copy, state)
    for number, batch in enumerate(batches({2, 5}), start=1):
        state, _ = step(state, sharding.shard_batch(batch))
        if number in (2, 5):
            plain = dataclasses.replace(plain, step=plain.step + 1)
        else:
            plain, _ = step(plain, sharding.shard_batch(batch))
    assert leaves(state) == leaves(plain)


def guards(sound):
    """The guard after each of the steps whose updates were sound or not."""
    state, found = Guard.new(), []
    for number, good in enumerate(sound, start=1):
        state, _ = guard.admit(state, jnp.int32(number), jnp.bool_(good), new={}, old={})
        found.append(state)
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("length", [3, 8, 20, 41])
def test_the_host_hears_of_each_discarded_step_once_and_in_order(seed, length):
    sound = np.random.default_rng(seed).random(length) > (0.9 if seed == 4 else 0.3)
    heard = []
    watch = Watch(Guard.new(), heard.append)
    for number, state in enumerate(guards(sound), start=1):
        watch.look(number, state, last=number == length)
        assert all(step <= number for step in heard)
    assert heard == (1 + np.flatnonzero(~sound)).tolist()


def test_five_in_a_row_trip_it_and_the_step_stays_known():
    good, bad = [True], [False]
    assert [int(state.tripped) for state in guards(good + 4 * bad + good + 4 * bad)] == [0] * 10
    found = guards(good + 7 * bad + good * 9)
    assert [int(state.tripped) for state in found] == [0] * 5 + [6] * 12
    watch = Watch(Guard.new(), lambda step: None)
    assert [watch.look(number, state) for number, state in enumerate(found, start=1)] == [False] * 15 + [True, False]


def test_going_back_skips_the_data_up_to_where_it_tripped():
    checkpoint = dataclasses.replace(_state(), step=jnp.int32(40))
    tripped = dataclasses.replace(Guard.new(), total=jnp.int32(6), tripped=jnp.int32(53), shift=jnp.int32(7))
    again = guard.rolled_back(checkpoint, tripped)
    assert int(again.step) == 40
    found = {name: int(getattr(again.guard, name)) for name in ("total", "in_a_row", "tripped", "rollbacks", "shift")}
    # step 41 read batch 40 + 7; now it reads the one that step 54 would have read
    assert found == {"total": 6, "in_a_row": 0, "tripped": 0, "rollbacks": 1, "shift": 7 + 13}


def _state():
    from ssljax.train.state import TrainState

    return TrainState(jnp.int32(0), {}, {}, (), jax.random.key(0), Guard.new())
