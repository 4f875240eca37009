"""`--shard-state`: the same losses in less memory, one program, checkpoints that fit either layout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ssljax import optim, sharding
from ssljax.methods.moco import moco
from ssljax.methods.simclr import simclr
from ssljax.models import heads, resnet
from ssljax.train import checkpoint, layout
from ssljax.train.saving import manifest
from ssljax.train.state import init_state
from ssljax.train.step import compile_step
from ssljax.types import Method
from tests.methods import test_bert_training
from tests.train import dense, states, test_dispatch, toy

STEPS = 3
OPTIMIZERS = {
    "moco": optim.sgd(0.1),
    "simclr": optim.lars(0.5, lr_in_momentum=False),
    "bert": optim.bert_adamw(1e-3, clip=0.1),
    "bert with LAMB": optim.lamb(1e-2, clip=0.1),
}


@pytest.fixture(autouse=True)
def _toys_are_large(monkeypatch):
    monkeypatch.setattr(layout, "MIN_SHARDED_SIZE", 16)


@functools.cache
def parts(name):
    """(method, views, optimizer) and the host's batches."""
    if name.startswith("bert"):
        method, views, _ = test_bert_training.pieces()
        return (method, views, OPTIMIZERS[name]), [test_bert_training.instances()] * STEPS
    _, views, _ = toy.make(name)
    backbone, head = resnet.resnet((1,), stem="cifar", width=8, groups=8 if name == "moco" else 1), heads.mlp((8, 8))
    method = moco(backbone, head, queue_size=64, symmetric=True) if name == "moco" else simclr(backbone, head)
    return (method, views, OPTIMIZERS[name]), toy.picture_batches(STEPS)


def start(name, shard_state):
    """A state, its step, and the batches on the devices of the present mesh."""
    (method, views, optimizer), batches = parts(name)
    state = init_state(method, optimizer, views, batches[0], seed=0, shard_state=shard_state)
    return state, compile_step(method, views, optimizer), [sharding.shard_batch(batch) for batch in batches]


def held(tree):
    """Bytes on the first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def train(name, shard_state):
    (method, views, optimizer), batches = parts(name)
    state = init_state(method, optimizer, views, batches[0], seed=0, shard_state=shard_state)
    traces, figures = [], []

    def counted(key, **batch):
        traces.append(name)
        return views(key, **batch)

    step = compile_step(method, counted, optimizer)
    for batch in map(sharding.shard_batch, batches):
        state, metrics = step(state, batch)
        figures.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    assert len(traces) == 1
    return state, figures


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_losses_stay_the_same_and_memory_falls(name):
    devices = 2 if name.startswith("bert") else 8  # that toy's widths are 6 and 2
    with sharding.use_mesh(sharding.make_mesh(devices)):
        whole, want = train(name, False)
        split, found = train(name, True)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    assert len({loss for loss, _ in want}) == STEPS  # it does learn something
    kinds = [(whole.params, split.params), (whole.opt_state, split.opt_state)]
    if name == "moco":
        kinds.append((whole.aux.key_params, split.aux.key_params))
        assert held(split.aux.queue) == held(whole.aux.queue)
    for before, after in kinds:
        large, small = held(before), held(after)
        assert small < (0.7 if devices == 2 else 0.4) * large


@pytest.mark.slow
@pytest.mark.parametrize("shard_state", [False, True])
def test_the_whole_state_is_donated(shard_state):
    with sharding.use_mesh(sharding.make_mesh(8)):
        state, step, batches = start("moco", shard_state)
        lowered = step.lower(state, batches[0])
        memory = lowered.compile().memory_analysis()
        size = held(dataclasses.replace(state, key=jax.random.key_data(state.key)))
        assert memory.alias_size_in_bytes >= size
        assert memory.argument_size_in_bytes - memory.alias_size_in_bytes <= held(batches[0]) + 64
        new, _ = step(state, batches[0])
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
        layouts = [jax.tree.map(lambda leaf: leaf.sharding, tree) for tree in (state, new)]
        assert layouts[0] == layouts[1]


@pytest.mark.parametrize("devices", [2, 8])
def test_checkpoints_fit_either_layout(devices, tmp_path):
    shapes = states._shapes("moco")
    with sharding.use_mesh(sharding.make_mesh(8)):
        made = states.fill(shapes, 5, 5)
        split, whole = jax.jit(layout.shard_state)(made), jax.jit(sharding.gather)(made)
        for name, state in (("split", split), ("whole", whole)):
            checkpoints = checkpoint.open_checkpoints(str(tmp_path / name))
            checkpoint.save(checkpoints, state)
            checkpoint.wait_until_finished(checkpoints)
            checkpoint.close(checkpoints)
    bodies = [
        manifest.read(checkpoint.retention.checkpoint_dir(str(tmp_path / name)) / "5") for name in ("split", "whole")
    ]
    assert bodies[0]["leaves"] == bodies[1]["leaves"]
    with sharding.use_mesh(sharding.make_mesh(devices)):
        made = states.fill(shapes, 5, 5)
        like = {"split": jax.jit(sharding.gather)(made), "whole": jax.jit(layout.shard_state)(made)}
        for name, model in like.items():
            checkpoints = checkpoint.open_checkpoints(str(tmp_path / name))
            found = checkpoint.restore(checkpoints, model)
            checkpoint.close(checkpoints)
            assert states.same(found, made)
            assert jax.tree.map(lambda leaf: leaf.sharding, found) == jax.tree.map(lambda leaf: leaf.sharding, model)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("split_first", [True, False])
def test_a_run_goes_on_in_the_other_layout(tmp_path, monkeypatch, steps, split_first):
    options = {"devices": 2, "steps_per_dispatch": steps}
    whole = test_dispatch.run(tmp_path / "whole", dense.recipe(), **options)
    with test_dispatch.stopped(monkeypatch, at=7 if steps == 1 else 5):
        test_dispatch.run(tmp_path / "run", dense.recipe(), shard_state=split_first, **options)
    monkeypatch.setattr(layout, "MIN_SHARDED_SIZE", 16)  # which `stopped` has undone
    rows = test_dispatch.run(tmp_path / "run", dense.recipe(), shard_state=not split_first, **options)
    rows = [row for row in rows if row["step"] % 5 == 0]
    assert [row["step"] for row in rows] == [row["step"] for row in whole] == [5, 10, 15, 20]
    for ours, theirs in zip(rows, whole, strict=True):
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_largest_axis_that_the_devices_divide_is_split(monkeypatch):
    monkeypatch.setattr(layout, "MIN_SHARDED_SIZE", 64)
    with sharding.use_mesh(sharding.make_mesh(8)):
        assert layout.partition_spec((8, 16)) == P(None, "data")
        assert layout.partition_spec((16, 8, 17)) == P("data", None, None)
        assert layout.partition_spec((8, 8)) == P("data", None)
        for stays_whole in ((), (56,), (7, 1023), (0, 8)):
            assert layout.partition_spec(stays_whole) == P()


def test_a_discarded_update_leaves_a_split_state_as_it_was():
    def loss(params, aux, batch, key, step):
        del key, step
        return jnp.sum(params["w"]) * jnp.mean(batch["x"]), (aux, {})

    method = Method(
        lambda key, batch: ({"w": jax.random.normal(key, (16, 3))}, {"key_params": jnp.ones((16, 3))}),
        loss,
        lambda params, aux, step: (params, {"key_params": 0.9 * aux["key_params"] + 0.1 * params["w"]}),
        lambda params, aux, inputs: {},
        lambda params, aux: (params, {}),
    )
    optimizer, views = optim.sgd(0.1), lambda key, **batch: batch
    with sharding.use_mesh(sharding.make_mesh(8)):
        good = sharding.shard_batch({"x": np.ones(8, np.float32)})
        bad = sharding.shard_batch({"x": np.full(8, np.nan, np.float32)})
        state = init_state(method, optimizer, views, good, seed=0, shard_state=True)
        step = compile_step(method, views, optimizer)
        state, _ = step(state, good)
        assert state.params["w"].sharding.spec == state.aux["key_params"].sharding.spec == P("data", None)
        before = jax.tree.map(states.bits, (state.params, state.aux, state.opt_state))
        state, metrics = step(state, bad)
        assert int(metrics["guard"].total) == 1
        assert jax.tree.map(states.bits, (state.params, state.aux, state.opt_state)) == before
