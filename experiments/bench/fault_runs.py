"""Kills and signals at random instants of tiny runs; what they end with is compared with a run that had none."""

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
ANEW = 25  # one start in so many compiles everything instead of taking it from the cache
LIMIT = 30.0  # seconds from a signal to the end of the process
SECOND = (0.35, 0.8)  # seconds from a first signal to a second; a sooner one counts as the same
INTERRUPTED = 75
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Whole(NamedTuple):
    """A run that was left alone: what it ends with, and the seconds it takes."""

    run: Tiny
    ending: dict[str, Any]
    seconds: float


class Blow(NamedTuple):
    """What came of one kill or signal.

    Attributes:
        phase: what the run was busy with.
        code: what the process has ended with; None if it has not.
        lost: steps that were made and are in no checkpoint.
        allowed: so many may be.
        seconds: from the signal to the end of the process.
    """

    phase: str
    code: int | None
    lost: int
    allowed: int
    seconds: float


Strike = Callable[[Whole, Child, Page, Path, np.random.Generator], Blow | None]


def kills(count: int, folder: Path, names: tuple[str, ...] = ORDER, seed: int = 0) -> dict[str, Any]:
    """So many kill -9 in runs of `names`, each taken up until it has come to its end.

    Args:
        count: kills.
        folder: for everything; exists.
        names: of the experiments, taken in turn.
        seed: of the instants.

    Returns:
        "blows", how many "runs" they were spread over, how many of these are "equal" to one without, how often each of
        "phases" and "codes" came, "most_lost" in intervals between saves, the "longest" end in seconds, and "wrong", a
        sentence for each thing that is not as it must be.
    """
    return _strike_all(count, folder, names, np.random.default_rng(seed), kill_once)


def signals(count: int, folder: Path, names: tuple[str, ...] = ORDER, seed: int = 0) -> dict[str, Any]:
    """So many SIGTERM and SIGINT, one in five with a second one; otherwise as `kills`."""
    return _strike_all(count, folder, names, np.random.default_rng(seed), signal_once)


def _strike_all(
    count: int, folder: Path, names: tuple[str, ...], rng: np.random.Generator, strike: Strike
) -> dict[str, Any]:
    (folder / "cache").mkdir(exist_ok=True)
    runs, began = tiny.make(folder), time.monotonic()
    wholes = {name: _whole(runs[name], folder) for name in dict.fromkeys(names)}
    blows, wrong, done, equal = [], [], 0, 0
    while len(blows) < count:
        model, workdir = wholes[names[done % len(names)]], folder / f"run-{done}"
        most = min(-(-count // len(names)), count - len(blows))  # so that each experiment has its share
        found, trouble = one_run(model, workdir, folder / "cache", most, rng, strike)
        blows, done, equal = blows + found, done + 1, equal + (not trouble)
        wrong += [f"{model.run.name}: {sentence}" for sentence in trouble]
        print(
            f"{len(blows)} of {count} in {done} runs, {time.monotonic() - began:.0f} s", *trouble, sep="; ", flush=True
        )
        if not trouble:
            shutil.rmtree(workdir)
    return {
        "blows": len(blows),
        "runs": done,
        "equal": equal,
        "phases": dict(collections.Counter(blow.phase for blow in blows)),
        "codes": dict(collections.Counter(str(blow.code) for blow in blows)),
        "most_lost": max(blow.lost for blow in blows) / tiny.INTERVAL,
        "longest": round(max(blow.seconds for blow in blows), 2),
        "wrong": wrong,
    }


def _whole(run: Tiny, folder: Path) -> Whole:
    """Let a run come to its end, twice: the second time with a kill half-way, which fills the cache for both."""
    store = functools.partial(tiny.cache, folder / "cache", True)
    first, cut, page = folder / f"{run.name}-whole", folder / f"{run.name}-cut", Page()
    tiny.complete(run, first, store)
    with children.running(tiny.start(run, cut, page, store)) as child:
        child.wait(600, until=lambda: page.step >= tiny.STEPS // 2)
    return Whole(run, tiny.ending(first), tiny.complete(run, cut, store))


def one_run(
    model: Whole, workdir: Path, cache: Path, most: int, rng: np.random.Generator, strike: Strike
) -> tuple[list[Blow], list[str]]:
    """Start a run and strike, so many times at most, until it ends by itself.

    Args:
        model: the run without strikes.
        workdir: of this one.
        cache: of compiled programs.
        most: strikes.
        rng: of the instants.
        strike: `kill_once` or `signal_once`.

    Returns:
        What came of each strike, and a sentence for each thing that is not as it must be.
    """
    blows, page = [], Page()
    while True:
        prepare = functools.partial(tiny.cache, cache, False) if rng.integers(ANEW) else lambda: None
        with children.running(tiny.start(model.run, workdir, page, prepare)) as child:
            blow = strike(model, child, page, workdir, rng) if len(blows) < most else None
            code = child.wait(600)
        blows += [] if blow is None else [blow]
        if blow is None or blow.code is None:
            break
    wrong = [tiny.difference(tiny.ending(workdir), model.ending) if code == 0 else f"ended with {code}: {child.said()}"]
    if (workdir / "checkpoints-damaged").exists():
        wrong.append("a checkpoint was damaged")
    return blows, [sentence for sentence in (*wrong, *map(_complaint, blows)) if sentence]


def _complaint(blow: Blow) -> str:
    if blow.code not in (-signal.SIGKILL, INTERRUPTED, 0):
        return f"{blow.phase}: ended with {blow.code}" if blow.code is not None else f"{blow.phase}: has not ended"
    if blow.seconds > LIMIT:
        return f"{blow.phase}: {blow.seconds:.0f} s to the end"
    return f"{blow.phase}: {blow.lost} steps lost" if blow.lost > blow.allowed else ""


def kill_once(model: Whole, child: Child, page: Page, workdir: Path, rng: np.random.Generator) -> Blow | None:
    """Kill -9 at an instant at random; None if the run has ended first."""
    before = tiny.being_saved(workdir)
    if not _instant(model, child, page, workdir, rng):
        return None
    child.kill()
    if child.code != -signal.SIGKILL:
        return None
    return Blow(_phase(page, workdir, before), child.code, _lost(page, workdir), 2 * tiny.INTERVAL, 0.0)


def signal_once(model: Whole, child: Child, page: Page, workdir: Path, rng: np.random.Generator) -> Blow | None:
    """Send SIGTERM or SIGINT, one time in five another one soon after, and wait for the end; None as `kill_once`."""
    # before it has the lock there is nothing that could be lost
    child.wait(60, until=lambda: _owner(workdir) == child.pid)
    before = tiny.being_saved(workdir)
    if not _instant(model, child, page, workdir, rng):
        return None
    phase, sent, second = _phase(page, workdir, before), time.monotonic(), rng.integers(5) == 0
    child.send(SIGNALS[rng.integers(2)])
    if second and child.wait(rng.uniform(*SECOND)) is None:
        child.send(SIGNALS[rng.integers(2)])
    code = child.wait(LIMIT + 15)
    if code in (1, *(-number for number in SIGNALS)) and (workdir / "results.json").exists():
        code = 0  # it had ended, and only Python was still there
    return Blow(phase, code, _lost(page, workdir), 2 * tiny.INTERVAL * second, time.monotonic() - sent)


def _instant(model: Whole, child: Child, page: Page, workdir: Path, rng: np.random.Generator) -> bool:
    """Wait for an instant at random: of all the time, some step, or during a save; False if the run has ended first."""
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
