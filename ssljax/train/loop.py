"""The training loop: steps, a log line every so often, hooks in between."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax

from ssljax.data.resident import Resident, rows_of
from ssljax.train.clock import Clock
from ssljax.train.guard import WINDOW, Watch
from ssljax.train.state import TrainState
from ssljax.types import Array, BadInputError, Batch

Hook = tuple[int, Callable[[int, TrainState], None]]


def fit(
    state: TrainState,
    step_fn: Callable[..., tuple[TrainState, dict[str, Any]]],
    batches: Iterator[Batch | Resident],
    *,
    total_steps: int,
    log_every: int,
    log: Callable[[int, dict[str, float]], None],
    boundary: Callable[[int, TrainState], None] = lambda step, state: None,
    compiling: Callable[[], AbstractContextManager[Any]] = nullcontext,
    discarded: Callable[[int], None] = lambda step: None,
    hooks: Sequence[Hook] = (),
    steps_per_dispatch: int = 1,
) -> TrainState:
    """Train from `state.step` to `total_steps`, or until so many updates were discarded that the run has to go back.

    A log line's figures are read one interval late, when the device has long finished them, so logging never
    makes the device wait.

    Args:
        state: donated to the first step.
        step_fn: what `compile_step` returns.
        batches: yields the batch of step `state.step` first.
        total_steps: updates in the whole run.
        log_every: steps between log lines.
        log: takes (step, metrics), with `examples_per_second` and `input_wait` (the share of the time in which
            the loop waited for the next batch) added, both without the hooks' time, and `host_gap_ms`, the median of
            the host's own time from the return of one dispatch to the next; a metric `X_per_example` also comes as
            `X_per_second`.
        boundary: called with the step's number and the state after every dispatch, before the hooks.
        compiling: a context around the first step with batches of a new shape.
        discarded: called with the number of each step whose update was not finite, some steps later.
        hooks: `(every, function)`; `function(step, state)` is called after every `every` steps and after the last.
        steps_per_dispatch: hand the device so many steps at once, `WINDOW` at most, where the batches are drawn on it
            and no log line or hook is due in between; what is computed stays the same.

    Returns:
        The final state; or one whose `guard.tripped` is not 0.
    """
    done = int(jax.device_get(state.step))
    pending: tuple[int, dict[str, Array], dict[str, float]] | None = None
    clock, shapes = Clock(), set()
    watch = Watch(state.guard, discarded, done)
    intervals = (log_every, *(every for every, _ in hooks))
    try:
        while done < total_steps:
            with clock.waiting():
                batch = next(batches)
                most = steps_per_dispatch if isinstance(batch, Resident) else 1
                count = most if done + most <= min(total_steps, _next_due(done, intervals)) else 1
                for _ in itertools.islice(batches, count - 1):  # drawn from what the first one holds
                    pass
            shape = (count, *(leaf.shape for leaf in jax.tree.leaves(batch)))
            with (
                nullcontext() if shape in shapes else compiling(),
                jax.profiler.StepTraceAnnotation("train", step_num=done),
                clock.dispatching(),
            ):
                state, metrics = step_fn(state, batch) if count == 1 else step_fn(state, batch, steps=count)
            done += count
            shapes.add(shape)
            guard = metrics.pop("guard")
            clock.examples += count * rows_of(batch)
            last = done == total_steps
            if done % log_every == 0 or last:
                if pending is not None:
                    _write(log, pending, clock)
                pending = (done, metrics, clock.lap())
            with clock.reading():
                tripped = watch.look(done, guard, last, most)
            if tripped:
                return state
            boundary(done, state)
            due = [hook for every, hook in hooks if done % every == 0 or last]
            if due and pending is not None:
                # hooks wait for the device anyway, and no step may be committed before its row is written
                _write(log, pending, clock)
                pending = None
            for hook in due:
                with clock.paused():
                    hook(done, state)
    finally:  # an interrupted run keeps what it knows
        if pending is not None:
            _write(log, pending, clock)
    return state


def dispatch_size(asked: int | None, intervals: Sequence[int]) -> int:
    """How many steps to hand to the device at once.

    Args:
        asked: by the user; None: on a CPU 1, since a convolution's step is many times slower inside a loop there,
            elsewhere as many as divide all `intervals`.
        intervals: numbers of steps after which the host has something to do.

    Returns:
        1 to `WINDOW`: what is remembered of discarded updates goes back so far.

    Raises:
        BadInputError: `asked` is not in that range.
    """
    if asked is not None:
        if not 1 <= asked <= WINDOW:
            raise BadInputError(f"steps_per_dispatch={asked}: give 1 to {WINDOW}.")
        return asked
    if jax.default_backend() == "cpu":
        return 1
    common = math.gcd(*intervals)
    return max(size for size in range(1, WINDOW + 1) if common % size == 0)


def _next_due(done: int, intervals: Sequence[int]) -> int:
    return min(done - done % every + every for every in intervals)


def _write(log: Callable, pending: tuple[int, dict[str, Array], dict[str, float]], clock: Clock) -> None:
    step, metrics, speed = pending
    with clock.reading():
        found = jax.device_get(metrics)
    log(step, _figures(found, speed))


def _figures(metrics: dict[str, Any], speed: dict[str, float]) -> dict[str, float]:
    figures = {name: float(value) for name, value in metrics.items()}
    rates = {
        name.replace("_per_example", "_per_second"): value * speed["examples_per_second"]
        for name, value in figures.items()
        if name.endswith("_per_example")
    }
    return figures | rates | speed
