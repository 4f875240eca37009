"""The collective operations of a compiled step, and the bytes that they put on the wire."""

import math
import re
from typing import NamedTuple

from ssljax.plan import hlo
from ssljax.plan.wire import sent

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """What one kind of collective does in a step.

    Attributes:
        count: number of operations that run.
        payload: bytes of the arrays that they work on, whole, as one device holds them.
        sent: bytes that each chip sends, where they are done as rings: an estimate.
    """

    count: int = 0
    payload: float = 0.0
    sent: float = 0.0


def read(program: hlo.Program, devices: int) -> dict[str, Collective]:
    """The collectives of one run of a program, by kind.

    A compiler that overlaps one with computing writes it into several fusions; it counts once.

    Args:
        program: from `hlo.parse`.
        devices: that it was compiled for; the size of a group where the text does not say.
    """
    counts, fused = hlo.times(program), hlo.fused(program)
    found = {kind: Collective() for kind in KINDS}
    seen = set()
    for name, instructions in program.computations.items():
        for instruction in instructions:
            kind = next((k for k in KINDS if instruction.opcode in (k, f"{k}-start")), None)
            if kind is None or not counts.get(name):
                continue
            same = (kind, *_origin(instruction)) if name in fused else (instruction.name,)
            if same in seen:
                continue
            seen.add(same)
            group = group_size(instruction.text, devices)
            kind, size = _sized(kind, name, instruction, group)
            rounds, one = counts[name], found[kind]
            found[kind] = Collective(
                one.count + rounds, one.payload + rounds * size, one.sent + rounds * sent(kind, size, group)
            )
    return {kind: value for kind, value in found.items() if value.count}


def group_size(text: str, devices: int) -> int:
    """Number of devices in the group of a collective.

    >>> group_size("replica_groups={{0,1},{2,3}}", 4), group_size("replica_groups=[2,8]<=[16]", 16)
    (2, 8)
    >>> group_size("replica_groups=mesh['axis_0'=8,'axis_1'=2] {'axis_0'}, x", 16)
    8
    """
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return len(listed[1].split(","))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", text):
        return int(iota[1])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", text):
        sides = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sides[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    return devices


def _origin(instruction: hlo.Instruction) -> tuple[str, ...]:
    """What copies of one collective share; those of all `shard_map`s have one channel, but come from other lines."""
    patterns = (r"channel_id=(\d+)", r'op_name="([^"]*)"', r"stack_frame_id=(\d+)")
    found = [match[1] if (match := re.search(each, instruction.text)) else "" for each in patterns]
    return tuple(found) if found[0] else (instruction.name,)


def _sized(kind: str, computation: str, instruction: hlo.Instruction, group: int) -> tuple[str, float]:
    """The kind, and the bytes of the whole array."""
    sizes = [buffer.size for buffer in instruction.buffers]
    size = float(sum(sizes))
    if kind == "all-reduce" and "all-reduce-scatter" in computation:  # a TPU's reduce-scatter is made of one
        return "reduce-scatter", size
    if instruction.opcode == "collective-permute-start" or (kind == "collective-permute" and len(sizes) > 1):
        return kind, float(sizes[0])
    if instruction.opcode == "all-gather-start":  # operands and results
        return kind, size * group / (group + 1)
    if kind == "reduce-scatter":
        return kind, size * (group / (group + 1) * 1.0 if instruction.opcode.endswith("-start") else group)
    return kind, size
