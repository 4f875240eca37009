"""BERT through the library's own step: masking as the views, the same run on every number of devices, a restart."""

import functools

import jax
import numpy as np
import pytest

from ssljax import optim, sharding
from ssljax.text.masking import Masking
from ssljax.train import checkpoint
from ssljax.train.state import init_state
from ssljax.train.step import compile_step
from tests.methods.test_bert import BATCH, COUNT, LENGTH, WORDS, toy_method

STEPS = 4


@functools.cache
def pieces():
    views = Masking(WORDS, 4, (2, 3), share=0.3, max_predictions=COUNT)
    rate = optim.linear_with_warmup(0.1, 2 * STEPS, 2)
    return toy_method(drop=0.2), views, optim.bert_adamw(rate)


def instances():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, LENGTH + 1, BATCH)
    tokens = rng.integers(5, WORDS, (BATCH, LENGTH))
    tokens[:, 0], tokens[:, 3] = 2, 3
    tokens[np.arange(BATCH), lengths - 1] = 3
    arrays = {"tokens": tokens * (np.arange(LENGTH) < lengths[:, None]), "segments": 0 * tokens, "lengths": lengths}
    arrays |= {"is_random": np.arange(BATCH) % 2, "example": np.arange(BATCH), "epoch": 0 * lengths}
    return {name: array.astype(np.int32) for name, array in arrays.items()}


@functools.cache
def step_on(devices):
    del devices  # one program a mesh
    return compile_step(*pieces())


@functools.cache
def losses(devices):
    method, views, optimizer = pieces()
    with sharding.use_mesh(devices and sharding.make_mesh(devices)):
        batch = sharding.shard_batch(instances())
        state = init_state(method, optimizer, views, batch, seed=0)
        history = []
        for _ in range(STEPS):
            state, metrics = step_on(devices)(state, batch)
            history.append([float(metrics[name]) for name in ("mlm_loss", "nsp_loss", "grad_norm")])
    return np.array(history)


@pytest.mark.parametrize("devices", [2, 8])
def test_the_run_does_not_depend_on_the_devices(devices):
    np.testing.assert_allclose(losses(devices), losses(None), rtol=1e-5)
    assert np.ptp(losses(None)[:, 0]) > 1e-3


def test_a_state_without_aux_survives_a_checkpoint(tmp_path):
    method, views, optimizer = pieces()
    step, batch = step_on(None), sharding.shard_batch(instances())
    state, _ = step(init_state(method, optimizer, views, batch, seed=0), batch)
    checkpoints = checkpoint.open_checkpoints(str(tmp_path))
    checkpoint.save(checkpoints, state)
    checkpoint.wait_until_finished(checkpoints)
    found = checkpoint.restore(checkpoints, state)
    checkpoint.close(checkpoints)
    assert found is not None
    assert jax.tree.structure(found) == jax.tree.structure(state)
    np.testing.assert_array_equal(step(found, batch)[1]["loss"], step(state, batch)[1]["loss"])
