"""How a step's collectives grow with the chips: read from compiled programs of a few sizes, and by rings beyond."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ssljax.plan import wire
from ssljax.plan.chips import Chip


class Point(NamedTuple):
    """A compiled step.

    Attributes:
        chips: that it was compiled for.
        rows: rows of the batch on each chip.
        payload: kind of collective -> bytes of the whole arrays.
        passes: floating-point operations on all chips.
    """

    chips: int
    rows: int
    payload: dict[str, float]
    passes: float

    @property
    def sent(self) -> float:
        """Bytes that each chip sends, in rings."""
        return sum(wire.sent(kind, size, self.chips) for kind, size in self.payload.items())


class Growth(NamedTuple):
    """Bytes of the arrays that one kind of collective works on.

    Attributes:
        fixed: whatever the batch, such as gradients.
        per_row: for each row of the global batch, such as what is gathered of it.
        per_own_row: for each row on one chip, such as what is exchanged of them.
    """

    fixed: float
    per_row: float
    per_own_row: float = 0.0


def fit(first: Point, second: Point) -> dict[str, Growth]:
    """What is fixed and what grows with the global batch, from two steps on different numbers of chips.

    An all-to-all exchanges rows of the batch: what is the same for both numbers grows with the rows on a chip.
    """
    one, other = first.chips * first.rows, second.chips * second.rows
    found = {}
    for kind in sorted({*first.payload, *second.payload}):
        low, high = first.payload.get(kind, 0.0), second.payload.get(kind, 0.0)
        per_row = (high - low) / (other - one)
        rest = low - per_row * one
        found[kind] = Growth(0.0, per_row, rest / first.rows) if kind == "all-to-all" else Growth(rest, per_row)
    return found


def bytes_sent(growth: dict[str, Growth], chips: int, rows: float) -> float:
    """Bytes that each chip sends in a step with `rows` rows on each of `chips` chips; an estimate.

    >>> bytes_sent({"all-reduce": Growth(800.0, 0.0), "all-gather": Growth(0.0, 10.0)}, 8, 10)
    2100.0
    >>> bytes_sent({"all-to-all": Growth(0.0, 0.0, 800.0)}, 8, 10)
    7000.0
    """
    sizes = {kind: each.fixed + (each.per_row * chips + each.per_own_row) * rows for kind, each in growth.items()}
    return sum(wire.sent(kind, size, chips) for kind, size in sizes.items())


def disagreement(growth: dict[str, Growth], points: Sequence[Point]) -> float:
    """The greatest relative difference of `bytes_sent` from what compiled steps send."""
    return max(abs(bytes_sent(growth, point.chips, point.rows) / point.sent - 1) for point in points)


def least_rows(growth: dict[str, Growth], passes_per_row: float, chip: Chip, chips: int) -> float:
    """Rows on each chip from which on computing takes longer than the network, both at their peak; an estimate.

    With fewer, more chips do not make a step of the same global batch faster. Infinite where the network's time grows
    with the batch as fast as computing does: no batch is large enough then.
    """
    once = bytes_sent(growth, chips, 0) / chip.ici_bandwidth
    network_per_row = bytes_sent(growth, chips, 1) / chip.ici_bandwidth - once
    spare = passes_per_row / chip.flops - network_per_row
    return once / spare if spare > 0 else math.inf
