"""The training loop: steps, a log line every so often, hooks in between."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ssljax.train.guard import Watch
from ssljax.train.state import TrainState
from ssljax.types import Array, Batch

Hook = tuple[int, Callable[[int, TrainState], None]]


def fit(
    state: TrainState,
    step_fn: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]],
    batches: Iterator[Batch],
    *,
    total_steps: int,
    log_every: int,
    log: Callable[[int, dict[str, float]], None],
    boundary: Callable[[int, TrainState], None] = lambda step, state: None,
    compiling: Callable[[], AbstractContextManager[Any]] = nullcontext,
    discarded: Callable[[int], None] = lambda step: None,
    hooks: Sequence[Hook] = (),
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
            the loop waited for the next batch) added, both without the hooks' time; a metric `X_per_example` also
            comes as `X_per_second`.
        boundary: called with the step's number and the state after every step, before the hooks.
        compiling: a context around the first step with batches of a new shape.
        discarded: called with the number of each step whose update was not finite, some steps later.
        hooks: `(every, function)`; `function(step, state)` is called after every `every` steps and after the last.

    Returns:
        The final state; or one whose `guard.tripped` is not 0.
    """
    start = int(state.step)
    pending: tuple[int, dict[str, Array], dict[str, float]] | None = None
    clock, watch, shapes = _Clock(), Watch(state.guard, discarded), set()
    try:
        for done in range(start + 1, total_steps + 1):
            with clock.waiting():
                batch = next(batches)
            shape = tuple(leaf.shape for leaf in batch.values())
            with nullcontext() if shape in shapes else compiling():
                state, metrics = step_fn(state, batch)
            shapes.add(shape)
            guard = metrics.pop("guard")
            clock.examples += shape[0][0]
            last = done == total_steps
            if done % log_every == 0 or last:
                if pending is not None:
                    log(pending[0], _figures(pending[1], pending[2]))
                pending = (done, metrics, clock.lap())
            if watch.look(done, guard, last):
                return state
            boundary(done, state)
            due = [hook for every, hook in hooks if done % every == 0 or last]
            if due and pending is not None:
                # hooks wait for the device anyway, and no step may be committed before its row is written
                log(pending[0], _figures(pending[1], pending[2]))
                pending = None
            for hook in due:
                with clock.paused():
                    hook(done, state)
    finally:  # an interrupted run keeps what it knows
        if pending is not None:
            log(pending[0], _figures(pending[1], pending[2]))
    return state


def _figures(metrics: dict[str, Array], speed: dict[str, float]) -> dict[str, float]:
    figures = {name: float(value) for name, value in metrics.items()}
    rates = {
        name.replace("_per_example", "_per_second"): value * speed["examples_per_second"]
        for name, value in figures.items()
        if name.endswith("_per_example")
    }
    return figures | rates | speed


class _Span:
    """Adds the time spent in a `with` block to one of a clock's counters."""

    def __init__(self, clock: "_Clock", counter: str):
        self.clock, self.counter = clock, counter

    def __enter__(self):
        self.start = time.perf_counter()

    def __exit__(self, *_):
        spent = time.perf_counter() - self.start
        setattr(self.clock, self.counter, getattr(self.clock, self.counter) + spent)


class _Clock:
    """Examples per second and waiting time since the last lap."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.began, self.examples, self.waited, self.out = time.perf_counter(), 0, 0.0, 0.0

    def waiting(self) -> _Span:
        return _Span(self, "waited")

    def paused(self) -> _Span:
        return _Span(self, "out")

    def lap(self) -> dict[str, float]:
        spent = max(time.perf_counter() - self.began - self.out, 1e-9)
        figures = {"examples_per_second": self.examples / spent, "input_wait": self.waited / spent}
        self.reset()
        return figures
