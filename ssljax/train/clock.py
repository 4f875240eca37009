"""Throughput of the training loop: examples per second, waiting for data, time of the host between dispatches."""

import statistics
import time


class _Span:
    """Adds the time spent in a `with` block to one of a clock's counters, and excludes it from the gap."""

    def __init__(self, clock: "Clock", counter: str):
        self.clock, self.counter = clock, counter

    def __enter__(self):
        self.start = time.perf_counter()

    def __exit__(self, *_):
        spent = time.perf_counter() - self.start
        setattr(self.clock, self.counter, getattr(self.clock, self.counter) + spent)
        self.clock.aside += spent


class _Dispatch:
    """The call that dispatches steps to the device."""

    def __init__(self, clock: "Clock"):
        self.clock = clock

    def __enter__(self):
        clock = self.clock
        if clock.returned is not None:
            clock.gaps.append(time.perf_counter() - clock.returned - clock.aside)

    def __exit__(self, *_):
        self.clock.returned, self.clock.aside = time.perf_counter(), 0.0


class Clock:
    """Measures throughput since the last lap."""

    def __init__(self):
        self.returned: float | None = None  # when the last dispatch did
        self.aside = 0.0
        self.reset()

    def reset(self) -> None:
        """Start a lap."""
        self.began, self.examples, self.waited, self.read, self.out = time.perf_counter(), 0, 0.0, 0.0, 0.0
        self.gaps: list[float] = []

    def waiting(self) -> _Span:
        """Around the wait for data."""
        return _Span(self, "waited")

    def reading(self) -> _Span:
        """Around the wait for metrics from the device."""
        return _Span(self, "read")

    def paused(self) -> _Span:
        """Around work that is not training, such as evaluation."""
        return _Span(self, "out")

    def dispatching(self) -> _Dispatch:
        """Around the call of the compiled step."""
        return _Dispatch(self)

    def lap(self) -> dict[str, float]:
        """Metrics since the last lap: `examples_per_second`, `input_wait` (a share of the time) and `host_gap_ms`."""
        spent = max(time.perf_counter() - self.began - self.out, 1e-9)
        figures = {"examples_per_second": self.examples / spent, "input_wait": self.waited / spent}
        if self.gaps:
            figures["host_gap_ms"] = 1e3 * statistics.median(self.gaps)
        self.reset()
        return figures
