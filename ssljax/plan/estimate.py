"""Estimates of time: from operations, bytes and a chip's peak figures to steps a second, hours and chip-hours."""

from typing import Any, NamedTuple

from ssljax.plan.chips import Topology

REALISTIC = 0.4
"""Share of the bound that a run is taken to reach: a round guess, not a measurement; tuned codes report 0.3 to 0.6."""


class Bound(NamedTuple):
    """Seconds that a step needs at the chip's peak figures, one at a time; estimates.

    Attributes:
        compute: matrix products and convolutions.
        memory: reading and writing main memory.
        network: collectives between the chips.
    """

    compute: float
    memory: float
    network: float

    @property
    def name(self) -> str:
        """The longest of the three."""
        return max(self._asdict().items(), key=lambda pair: pair[1])[0]

    @property
    def steps_per_second(self) -> float:
        """Where the other two hide behind the longest."""
        return 1 / max(self)


def bound(topology: Topology, passes: float, hbm_bytes: float, sent: float) -> Bound:
    """The bound of a step.

    Args:
        topology: the slice.
        passes: floating-point operations on all chips, as often as they are repeated.
        hbm_bytes: that a chip moves.
        sent: bytes that a chip sends.
    """
    chip = topology.chip
    return Bound(passes / topology.chips / chip.flops, hbm_bytes / chip.hbm_bandwidth, sent / chip.ici_bandwidth)


def times(topology: Topology, answer: dict[str, Any], steps: int) -> dict[str, Any]:
    """Estimates for `steps` of the step that `compiling.step` described."""
    sent = sum(kind["sent"] for kind in answer["collectives"].values())
    limits = bound(topology, answer["flops"]["passes"], answer["hbm_bytes"], sent)
    hours = steps / (limits.steps_per_second * REALISTIC) / 3600
    return {
        "bound": limits.name,
        "seconds_at_peak": limits._asdict(),
        "steps_per_second_at_bound": limits.steps_per_second,
        "realistic_share": REALISTIC,
        "steps_per_second_realistic": limits.steps_per_second * REALISTIC,
        "hours": hours,
        "chip_hours": hours * topology.chips,
    }
