"""The cost of a long run and of a save: memory, open files, seconds."""

import functools
import itertools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import children, tiny
from experiments.bench.children import Child, Page
from ssljax.train import checkpoint
from ssljax.train.guard import Guard
from ssljax.train.saving import digest
from ssljax.train.state import TrainState

WINDOW = 1000  # steps; those of the first are not counted
SLOPE = 1.0  # megabytes a window that the memory may grow by
LOOK = 0.2  # seconds
HASHING, STALL = 0.05, 1.2


def soak(steps: int, folder: Path, window: int = WINDOW) -> dict[str, Any]:
    """A run of `steps` steps with saves, log lines and evaluations, measured from outside.

    Args:
        steps: at least three windows.
        folder: for everything; exists.
        window: of steps.

    Returns:
        "slope" of its own resident memory in megabytes a window, the median "memory" and number of open "files" in each
        window, "steps_per_second", and "wrong", a sentence for each failed check.
    """
    (folder / "cache").mkdir(exist_ok=True)
    run, workdir, page = tiny.moco(tiny.make_pictures(folder / "pictures.npz")), folder / "soak", Page()
    epochs = steps // tiny.INTERVAL
    last = epochs * tiny.INTERVAL
    every = f"--epochs {epochs} --log-every 10 --save-every 34 --eval-every 100".split()
    began = time.monotonic()
    store = functools.partial(tiny.cache, folder / "cache", True)
    with children.running(tiny.start(run, workdir, page, store, tuple(every))) as child:
        samples = _watch(child, page, last)
        if page.step < last:
            raise RuntimeError(f"the run has ended with {child.code} at step {page.step}:\n{child.said()}")
    parts = [samples[samples[:, 0] // window == number] for number in range(1, -(-last // window))]
    memory, files = ([float(np.median(part[:, column])) for part in parts if len(part)] for column in (1, 2))
    # the median of all pairs: now and then a process frees much memory at once, which would tilt a fitted line
    pairs = itertools.combinations(enumerate(memory), 2)
    slope = statistics.median((later - earlier) / (j - i) for (i, earlier), (j, later) in pairs)
    wrong = [f"memory grows by {slope:.2f} MB a {window} steps"] if slope > SLOPE else []
    wrong += [f"{files[0]:g} open files have become {files[-1]:g}"] if files[-1] > files[0] else []
    found = {"steps": page.step, "window": window, "slope": round(slope, 3), "memory": memory, "files": files}
    return found | {"steps_per_second": round(page.step / (time.monotonic() - began), 1), "wrong": wrong}


def _watch(child: Child, page: Page, last: int) -> np.ndarray:
    """Rows of (step, megabytes of its own that are resident, open files), several a second, until the last step."""
    samples, place = [], Path(f"/proc/{child.pid}")
    while page.step < last and child.wait(LOOK) is None:
        try:
            status = (place / "status").read_text().split()
            # not the files' pages, libraries among them, which the kernel drops and reads again as needed
            own = int(status[status.index("RssAnon:") + 1]) / 1e3
            samples.append((page.step, own, len(os.listdir(place / "fd"))))
        except OSError:
            break
    return np.array(samples).reshape(-1, 3)


def save_cost(megabytes: int, folder: Path, times: int = 21) -> dict[str, Any]:
    """Time the saves of a state of `megabytes`.

    Args:
        megabytes: of the state; as many leaves.
        folder: for everything; exists.
        times: saves; the first is not counted.

    Returns:
        Medians in seconds: of a whole save ("save"), of the hashes in it ("hashing"), of the time for which `save`
        blocks its caller ("stall") and of a copy of the state to the host ("copy"); their ratios; and "wrong" as
        `soak`.
    """
    found = children.call(lambda: _cost(megabytes, folder / "cost", times), folder)
    share, ratio = found["hashing"] / found["save"], found["stall"] / found["copy"]
    wrong = [f"hashing is {share:.1%} of a save"] if share > HASHING else []
    wrong += [f"a save stalls {ratio:.2f} times the copy to the host"] if ratio > STALL else []
    return {"megabytes": megabytes} | found | {"hashing_by_save": share, "stall_by_copy": ratio, "wrong": wrong}


def _cost(megabytes: int, workdir: Path, times: int) -> dict[str, float]:
    rng, found = np.random.default_rng(0), []
    params = {f"leaf_{n}": jnp.asarray(rng.normal(size=(500, 500)), jnp.float32) for n in range(megabytes)}
    update = jax.jit(lambda params: {name: leaf * 1.001 for name, leaf in params.items()}, donate_argnums=0)
    # a CPU's arrays are the host's already, and what is measured is a copy in its memory
    fetch = np.array if jax.default_backend() == "cpu" else np.asarray
    checkpoints = checkpoint.open_checkpoints(str(workdir))
    for step in range(times):
        params = jax.block_until_ready(update(params))
        state = TrainState(jnp.int32(step), params, {}, (), jax.random.key(0), Guard.new())
        fresh = jax.block_until_ready([leaf + 0 for leaf in params.values()])
        copy, copies = _timed(lambda fresh=fresh: [fetch(leaf) for leaf in fresh])
        hashing, _ = _timed(lambda copies=copies: [digest.digest(leaf) for leaf in copies])
        del fresh, copies
        began = time.perf_counter()
        stall, _ = _timed(lambda state=state: checkpoint.save(checkpoints, state))
        checkpoint.wait_until_finished(checkpoints)
        save = time.perf_counter() - began
        found.append({"copy": copy, "hashing": hashing, "stall": stall, "save": save})
    checkpoint.close(checkpoints)
    return {name: round(statistics.median(one[name] for one in found[1:]), 4) for name in found[0]}


def _timed(act: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    done = act()
    return time.perf_counter() - began, done
