"""Kills and signals at random times of tiny runs, whose results are compared with those of uninterrupted runs."""

import collections
import functools
import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.bench import children, tiny
from experiments.bench.children import Child, Page
from experiments.bench.tiny import Tiny

ORDER = ("moco_cifar10", "bert_demo", "simclr_cifar10", "bert_demo", "moco_cifar10")
ANEW = 25  # one start in so many compiles everything instead of reading the cache
LIMIT = 30.0  # seconds from a signal to the end of the process
SECOND = (0.35, 0.8)  # seconds from a first signal to a second; an earlier one counts as the same
INTERRUPTED = 75
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Uninterrupted(NamedTuple):
    """An uninterrupted run: its results, and the seconds it takes."""

    run: Tiny
    ending: dict[str, Any]
    seconds: float


class Fault(NamedTuple):
    """The outcome of one kill or signal.

    Attributes:
        phase: what the run was busy with.
        code: the exit code of the process; None if it has not exited.
        lost: steps that are in no checkpoint.
        allowed: how many may be lost.
        seconds: from the signal to the end of the process.
    """

    phase: str
    code: int | None
    lost: int
    allowed: int
    seconds: float


Inject = Callable[[Uninterrupted, Child, Page, Path, np.random.Generator], Fault | None]


def kills(count: int, folder: Path, names: tuple[str, ...] = ORDER, seed: int = 0) -> dict[str, Any]:
    """`count` kill -9 in runs of `names`, each resumed until it is complete.

    Args:
        count: kills.
        folder: for everything; exists.
        names: of the experiments, in rotation.
        seed: of the times.

    Returns:
        the number of "blows" and of "runs", how many of these are "equal" to an uninterrupted one, the counts of
        "phases" and "codes", "most_lost" in intervals between saves, the "longest" time to exit in seconds, and
        "wrong", a sentence for each failed check.
    """
    return _inject_all(count, folder, names, np.random.default_rng(seed), kill_once)


def signals(count: int, folder: Path, names: tuple[str, ...] = ORDER, seed: int = 0) -> dict[str, Any]:
    """`count` SIGTERM and SIGINT, one in five with a second one; otherwise as `kills`."""
    return _inject_all(count, folder, names, np.random.default_rng(seed), signal_once)


def _inject_all(
    count: int, folder: Path, names: tuple[str, ...], rng: np.random.Generator, inject: Inject
) -> dict[str, Any]:
    (folder / "cache").mkdir(exist_ok=True)
    runs, began = tiny.make(folder), time.monotonic()
    uninterrupted = {name: _complete_twice(runs[name], folder) for name in dict.fromkeys(names)}
    faults, wrong, done, equal = [], [], 0, 0
    while len(faults) < count:
        model, workdir = uninterrupted[names[done % len(names)]], folder / f"run-{done}"
        most = min(-(-count // len(names)), count - len(faults))  # so that every experiment gets its share
        found, trouble = one_run(model, workdir, folder / "cache", most, rng, inject)
        faults, done, equal = faults + found, done + 1, equal + (not trouble)
        wrong += [f"{model.run.name}: {sentence}" for sentence in trouble]
        print(
            f"{len(faults)} of {count} in {done} runs, {time.monotonic() - began:.0f} s", *trouble, sep="; ", flush=True
        )
        if not trouble:
            shutil.rmtree(workdir)
    return {
        "blows": len(faults),
        "runs": done,
        "equal": equal,
        "phases": dict(collections.Counter(fault.phase for fault in faults)),
        "codes": dict(collections.Counter(str(fault.code) for fault in faults)),
        "most_lost": max(fault.lost for fault in faults) / tiny.INTERVAL,
        "longest": round(max(fault.seconds for fault in faults), 2),
        "wrong": wrong,
    }


def _complete_twice(run: Tiny, folder: Path) -> Uninterrupted:
    """Complete a run twice, the second time with a kill half-way, which fills the cache for both kinds of start."""
    store = functools.partial(tiny.cache, folder / "cache", True)
    first, cut, page = folder / f"{run.name}-whole", folder / f"{run.name}-cut", Page()
    tiny.complete(run, first, store)
    with children.running(tiny.start(run, cut, page, store)) as child:
        child.wait(600, until=lambda: page.step >= tiny.STEPS // 2)
    return Uninterrupted(run, tiny.ending(first), tiny.complete(run, cut, store))


def one_run(
    model: Uninterrupted, workdir: Path, cache: Path, most: int, rng: np.random.Generator, inject: Inject
) -> tuple[list[Fault], list[str]]:
    """Start a run again and again with a fault each time, at most `most` of them, until it completes.

    Args:
        model: the uninterrupted run.
        workdir: of this one.
        cache: of compiled programs.
        most: number of faults.
        rng: of the times.
        inject: `kill_once` or `signal_once`.

    Returns:
        The outcome of each fault, and a sentence for each failed check.
    """
    faults, page = [], Page()
    while True:
        prepare = functools.partial(tiny.cache, cache, False) if rng.integers(ANEW) else lambda: None
        with children.running(tiny.start(model.run, workdir, page, prepare)) as child:
            fault = inject(model, child, page, workdir, rng) if len(faults) < most else None
            code = child.wait(600)
        faults += [] if fault is None else [fault]
        if fault is None or fault.code is None:
            break
    wrong = [tiny.difference(tiny.ending(workdir), model.ending) if code == 0 else f"ended with {code}: {child.said()}"]
    if (workdir / "checkpoints-damaged").exists():
        wrong.append("a checkpoint was damaged")
    return faults, [sentence for sentence in (*wrong, *map(_complaint, faults)) if sentence]


def _complaint(fault: Fault) -> str:
    if fault.code not in (-signal.SIGKILL, INTERRUPTED, 0):
        return f"{fault.phase}: ended with {fault.code}" if fault.code is not None else f"{fault.phase}: has not ended"
    if fault.seconds > LIMIT:
        return f"{fault.phase}: {fault.seconds:.0f} s to the end"
    return f"{fault.phase}: {fault.lost} steps lost" if fault.lost > fault.allowed else ""


def kill_once(model: Uninterrupted, child: Child, page: Page, workdir: Path, rng: np.random.Generator) -> Fault | None:
    """Kill -9 at a random time; None if the run has ended first."""
    before = tiny.being_saved(workdir)
    if not _wait_for_random_time(model, child, page, workdir, rng):
        return None
    child.kill()
    if child.code != -signal.SIGKILL:
        return None
    return Fault(_phase(page, workdir, before), child.code, _lost(page, workdir), 2 * tiny.INTERVAL, 0.0)


def signal_once(
    model: Uninterrupted, child: Child, page: Page, workdir: Path, rng: np.random.Generator
) -> Fault | None:
    """Send SIGTERM or SIGINT, one time in five another one soon after, and wait for the exit; None as `kill_once`."""
    # before it has the lock there is nothing that could be lost
    child.wait(60, until=lambda: _owner(workdir) == child.pid)
    before = tiny.being_saved(workdir)
    if not _wait_for_random_time(model, child, page, workdir, rng):
        return None
    phase, sent, second = _phase(page, workdir, before), time.monotonic(), rng.integers(5) == 0
    child.send(SIGNALS[rng.integers(2)])
    if second and child.wait(rng.uniform(*SECOND)) is None:
        child.send(SIGNALS[rng.integers(2)])
    code = child.wait(LIMIT + 15)
    if code in (1, *(-number for number in SIGNALS)) and (workdir / "results.json").exists():
        code = 0  # it had ended, and only Python was still there
    return Fault(phase, code, _lost(page, workdir), 2 * tiny.INTERVAL * second, time.monotonic() - sent)


def _wait_for_random_time(
    model: Uninterrupted, child: Child, page: Page, workdir: Path, rng: np.random.Generator
) -> bool:
    """Wait for a random time: any, that of a step, or during a save; False if the run has ended first."""
    kind = rng.integers(4)
    if kind == 0:
        return child.wait(rng.uniform(0, model.seconds)) is None
    if kind == 1:
        seen, wanted = set(tiny.being_saved(workdir)), rng.geometric(0.2)

        def is_saving() -> bool:
            seen.update(tiny.being_saved(workdir))
            return len(seen) >= wanted

        wanted += len(seen)
        return child.wait(600, until=is_saving) is None and child.wait(rng.uniform(0, 0.06)) is None
    step = int(rng.integers(max(tiny.newest(workdir), 0), tiny.STEPS + 1))
    return child.wait(600, until=lambda: page.step >= step) is None and child.wait(rng.uniform(0, 0.03)) is None


def _phase(page: Page, workdir: Path, before: set[str]) -> str:
    if tiny.being_saved(workdir) - before:
        return "saving"
    return "end" if page.step == tiny.STEPS else page.phase


def _lost(page: Page, workdir: Path) -> int:
    return max(page.step - max(tiny.newest(workdir), 0), 0)


def _owner(workdir: Path) -> int:
    try:
        return json.loads((workdir / "lock.json").read_text())["pid"]
    except (OSError, ValueError):
        return 0
