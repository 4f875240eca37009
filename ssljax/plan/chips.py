"""TPU chips and the slices of them that can be had, by the names that Google gives them."""

import math
import re
from typing import NamedTuple

from ssljax.types import BadInputError

GIB = 1 << 30


class Chip(NamedTuple):
    """One chip's peak figures, as its vendor states them.

    Attributes:
        name: such as "v5e".
        flops: operations of bfloat16 multiplications with float32 sums, a second.
        hbm_bytes: bytes of memory.
        hbm_bandwidth: bytes a second.
        ici_bandwidth: bytes a second that all its links together send to its neighbours, one way.
        cores: TensorCores on it; where there are two they work as one device ("megacore").
        counts_cores: whether the number in a slice's name counts cores (v4, v5p) or chips (v5e, v6e).
        shapes: chips along each side of the slices that can be had.

    Reference:
        cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e, read in 2026-11: bf16 TFLOPs 275, 197, 459 and 918; HBM 32,
        16, 95 and 32 GB at 1200, 819, 2765 and 1640 GB/s; interconnect 2400, 1600 and 4800 Gbit/s one way for v4, v5e
        and v5p, and 800 GB/s both ways for v6e. HBM is counted in GiB, as the compiler does.
    """

    name: str
    flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    ici_bandwidth: float
    cores: int
    counts_cores: bool
    shapes: tuple[tuple[int, ...], ...]


_CUBES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8), (8, 8, 16))
_SQUARES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))

CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 32 * GIB, 1200e9, 300e9, 2, True, (*_CUBES, (8, 16, 16))),
        Chip("v5e", 197e12, 16 * GIB, 819e9, 200e9, 1, False, _SQUARES),
        Chip("v5p", 459e12, 95 * GIB, 2765e9, 600e9, 2, True, (*_CUBES, (8, 16, 16))),
        Chip("v6e", 918e12, 32 * GIB, 1640e9, 400e9, 1, False, _SQUARES),
    )
}


class Topology(NamedTuple):
    """A slice: chips of one kind that are wired together.

    Attributes:
        name: as Google writes it, such as "v4-128".
        chip: kind of the chips.
        shape: chips along each side.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    @property
    def described(self) -> str:
        """The name in words, with what its number counts."""
        count, sides = self.chips, "x".join(map(str, self.shape))
        chips = f"{count} chip{'s' if count > 1 else ''} ({sides})"
        if self.chip.counts_cores:
            return f"{self.name}: {count * self.chip.cores} TensorCores on {chips}; the name counts cores"
        return f"{self.name}: {chips}; the name counts chips"


def parse(name: str) -> Topology:
    """The slice that Google calls `name`: v4 and v5p count TensorCores, two a chip; v5e and v6e count chips.

    Raises:
        BadInputError: no such chip, or no slice of that size.

    >>> [parse(name).chips for name in ("v5e-16", "v5litepod-16", "v4-128", "v5p-64", "v6e-8")]
    [16, 16, 64, 32, 8]
    """
    found = re.fullmatch(r"(\w+)-(\d+)", name.strip().lower())
    kind = {"v5litepod": "v5e"}.get(found[1], found[1]) if found else ""
    if found is None or kind not in CHIPS:
        raise BadInputError(f"topology={name!r}: give CHIP-NUMBER such as v5e-16; the chips are {', '.join(CHIPS)}.")
    chip = CHIPS[kind]
    numbers = {math.prod(shape) * (chip.cores if chip.counts_cores else 1): shape for shape in chip.shapes}
    if int(found[2]) not in numbers:
        counted = "TensorCores, two a chip" if chip.counts_cores else "chips"
        sizes = ", ".join(f"{kind}-{number}" for number in numbers)
        raise BadInputError(f"topology={name!r}: {kind} slices count {counted}, and there are {sizes}.")
    return Topology(f"{kind}-{found[2]}", chip, numbers[int(found[2])])


def slices(chip: str, chips: int) -> Topology:
    """The slice of `chips` chips of kind `chip`."""
    per_chip = CHIPS[chip].cores if CHIPS[chip].counts_cores else 1
    return parse(f"{chip}-{chips * per_chip}")
