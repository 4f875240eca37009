"""Saved on d devices and restored on e: the same bits, the same samples in the same order, losses within 1e-6."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from experiments import moco_cifar10
from experiments.bench import children, tiny
from ssljax import sharding
from ssljax.train import checkpoint
from ssljax.train.saving import manifest, snapshot
from ssljax.train.state import TrainState, init_state
from ssljax.train.step import compile_step

COUNTS = (1, 2, 4, 8)
SAVED, AFTER = 6, 5  # the step of the checkpoint, and how many steps are compared after it
TOLERANCE = 1e-6
EIGHT = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}


def devices(counts: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """Restore, on each of `counts` emulated devices, what was saved on each.

    Args:
        counts: of devices.
        folder: for everything; exists.

    Returns:
        "pairs", the largest relative difference of a loss ("difference"; "from" and "to" which count), and "wrong",
        a sentence for each failed check.
    """
    data = tiny.make_pictures(folder / "pictures.npz")
    saved = {d: children.call(lambda d=d: _train(data, folder / f"{d}", d), folder, EIGHT) for d in counts}
    found, wrong = [], []
    for e in counts:
        continued = children.call(lambda e=e: [_restore(data, folder / f"{d}", e) for d in counts], folder, EIGHT)
        for d, here in zip(counts, continued, strict=True):
            there = saved[d]
            pair = f"from {d} to {e} devices"
            wrong += [f"{pair}: {leaf} has other bits"] if (leaf := here["mismatch"]) else []
            wrong += [f"{pair}: other samples"] if here["samples"] != there["samples"] else []
            off = max(abs(ours / theirs - 1) for ours, theirs in zip(here["losses"], there["losses"], strict=True))
            wrong += [f"{pair}: a loss is {off:.1e} off"] if off > TOLERANCE else []
            found.append((off, d, e))
    off, d, e = max(found)
    return {"pairs": len(found), "steps": AFTER, "difference": off, "from": d, "to": e, "wrong": wrong}


def _parts(data: str, count: int) -> tuple[Any, TrainState, Any]:
    options = {"batch_size": 16, "queue_size": 64, "width": 4, "embedding_dim": 8, "stage_sizes": (1,), "epochs": 20}
    config = moco_cifar10.Config(data=data, devices=count, **options)
    recipe = moco_cifar10.build(config)
    task = recipe.task()
    pace = recipe.pace(task.examples)
    method, optimizer = recipe.method(pace), recipe.optimizer(pace)
    state = init_state(method, optimizer, recipe.views, task.batch_shapes[0], seed=0)
    return task, state, compile_step(method, recipe.views, optimizer)


def _continue(task: Any, state: TrainState, step_fn: Any) -> dict[str, Any]:
    losses, seen = [], hashlib.blake2b()
    for batch in task.batches(SAVED, SAVED + AFTER, 0):
        seen.update(np.asarray(batch["image"]).tobytes())
        state, metrics = step_fn(state, batch)
        losses.append(float(metrics["loss"]))
    return {"losses": losses, "samples": seen.hexdigest()}


def _train(data: str, workdir: Path, count: int) -> dict[str, Any]:
    with sharding.use_mesh(sharding.make_mesh(count)):
        task, state, step_fn = _parts(data, count)
        for batch in task.batches(0, SAVED, 0):
            state, _ = step_fn(state, batch)
        checkpoints = checkpoint.open_checkpoints(str(workdir))
        checkpoint.save(checkpoints, state)
        checkpoint.wait_until_finished(checkpoints)
        checkpoint.close(checkpoints)
        return _continue(task, state, step_fn)


def _restore(data: str, workdir: Path, count: int) -> dict[str, Any]:
    with sharding.use_mesh(sharding.make_mesh(count)):
        task, like, step_fn = _parts(data, count)
        checkpoints = checkpoint.open_checkpoints(str(workdir))
        state = checkpoint.restore(checkpoints, like)
        checkpoint.close(checkpoints)
        assert state is not None
        leaves = manifest.read(epath.Path(workdir / "checkpoints" / str(SAVED)))["leaves"]
        mismatch = snapshot.first_mismatch(snapshot.flatten(state), leaves)
        return {"mismatch": mismatch} | _continue(task, state, step_fn)
