"""The collapse alarm: a stated rule on the figures that a run logs, and what is said of it."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

STEPS = 100  # over which a figure has to stay low
START = 1000  # steps of a run, a fifth of a shorter one's, in which only a fall counts: it may begin near a collapse
SPREAD = 0.05  # share of 1 / sqrt(D), the deviation of D-dimensional embeddings that are spread over the sphere
CAUSES = (
    "a learning rate that is too high, a momentum encoder or stop-gradient that is missing or a momentum that is too "
    "low, no predictor, a temperature that does not suit the loss, no BatchNorm in the projector"
)


class CollapsedError(RuntimeError):
    """The representation has collapsed, and the run is to stop; the message says where."""


class Sign(NamedTuple):
    """A figure that collapse brings down.

    Attributes:
        share: of its highest value so far, below which it is low.
        least: the value below which it is low whatever it has been, after the start.
        rows: how many rows in a row it has to be low.
        name: what it is.
    """

    share: float
    least: float
    rows: int
    name: str


SIGNS = {
    # where D is not known: of 2,500 dimensions
    "embedding_std": Sign(0.1, SPREAD / 50, 5, "the deviation of the normalised embeddings"),
    "rankme": Sign(0.1, 1.5, 2, "the effective rank of the embeddings"),
    "entropy": Sign(0.1, 0.05, 5, "the entropy of the mean assignment"),
}


class Alarm(NamedTuple):
    """A collapse: the row at which the rule held, the first low row before it, and which figure is how low."""

    step: int
    since: int
    figure: str
    value: float
    level: float

    def reason(self) -> str:
        """What has been seen, without a full stop."""
        return (
            f"{SIGNS[self.figure].name} ({self.figure}) has been below {self.level:.2g} since step {self.since} "
            f"and is {self.value:.2g} at step {self.step}"
        )

    def sentence(self) -> str:
        """For the log and the report."""
        return f"The representation has collapsed: {self.reason()}; the usual causes are {CAUSES}."


@dataclasses.dataclass
class Seen:
    """What is remembered of one figure.

    Attributes:
        highest: value so far.
        low: rows in a row, up to the latest, in which it was low.
        since: step of the first of them.
        alarm: that the rule has raised and no higher value has ended.
    """

    highest: float = 0.0
    low: int = 0
    since: int = 0
    alarm: Alarm | None = None


class Watch:
    """Looks at every row of a run, on every process alike; all it knows is in the rows.

    A figure of `SIGNS` is low where it is below a tenth of its highest value so far, or, after the first `START` steps
    (a fifth of a shorter run's), below its `least`: a rank of 1.5, an entropy of 0.05 nats, a deviation of a twentieth
    of 1 / sqrt(D). It means collapse once it is low in so many rows in a row (5; 2 of the evaluation's rank) that span
    `STEPS` steps or more, and until it is not low. Rows without the figure, or where it is not finite, do not count.

    What the numbers are from: a healthy run may begin near a collapse (in the demo the deviation falls to 0.29 of
    1 / sqrt(D) and is back after 30 steps; its rank is 11 after an epoch), and toy runs that collapse stay at 0.01 to
    0.05 of it and at a rank of 1.1 to 1.6.

    Attributes:
        rows: those with such a figure, in order.
        seen: what is remembered, by figure.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]] = (),
        total_steps: int = START * 5,
        width: Callable[[], int | None] = lambda: None,
    ):
        """Start with the rows that a resumed run has logged; `width` gives D, if it is known, and is called once."""
        self.start = min(START, total_steps // 5)
        self.width = functools.cache(width)
        self.rows: list[dict[str, Any]] = []
        self.seen = {name: Seen() for name in SIGNS}
        for row in rows:
            self.look(row)

    @property
    def alarm(self) -> Alarm | None:
        """Of the present collapse, by the earliest sign."""
        raised = [seen.alarm for seen in self.seen.values() if seen.alarm is not None]
        return min(raised, key=lambda alarm: alarm.since, default=None)

    @property
    def is_low(self) -> bool:
        """Whether any figure is low, collapse or not yet."""
        return any(seen.low for seen in self.seen.values())

    def look(self, row: Mapping[str, Any]) -> Alarm | None:
        """The alarm, where this row is the first at which the rule holds."""
        figures = {name: row[name] for name in SIGNS if _is_figure(row.get(name))}
        if not figures:
            return None
        self.rows.append({"step": row["step"]} | figures)
        before = self.alarm
        for name, value in figures.items():
            self._note(name, value, row["step"])
        return self.alarm if before is None else None

    def forget(self, after: int) -> None:
        """The run has gone back to step `after`: what it logged later is no more."""
        rows, self.rows = self.rows, []
        self.seen = {name: Seen() for name in SIGNS}
        for row in rows:
            if row["step"] <= after:
                self.look(row)

    def _note(self, name: str, value: float, step: int) -> None:
        sign, seen = SIGNS[name], self.seen[name]
        level = max(sign.share * seen.highest, self._least(name, value) if step > self.start else 0.0)
        seen.highest = max(seen.highest, value)
        if value >= level:
            seen.low, seen.alarm = 0, None
            return
        seen.since = seen.since if seen.low else step
        seen.low += 1
        if seen.alarm is None and seen.low >= sign.rows and step - seen.since >= STEPS:
            seen.alarm = Alarm(step, seen.since, name, value, level)

    def _least(self, name: str, value: float) -> float:
        # above it no width makes a difference, and finding the width is not for free
        width = self.width() if name == "embedding_std" and value < SPREAD else None
        return SIGNS[name].least if width is None else SPREAD / width**0.5


def note(rows: Iterable[Mapping[str, Any]]) -> str:
    """What the report says of the collapses in the rows of a metrics.jsonl; empty without one."""
    found = [str(row["collapsed"]) for row in rows if row.get("collapsed")]
    if not found:
        return ""
    again = f" (the first of {len(found)} times)" if len(found) > 1 else ""
    return f"The representation collapsed during this run{again}: {found[0]}. The usual causes are {CAUSES}."


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
