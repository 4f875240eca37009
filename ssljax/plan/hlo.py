"""A compiled program's text, read: its computations, their instructions, and how often each of them runs."""

import re
from collections import defaultdict
from typing import NamedTuple

_BYTES = {"pred": 1, "token": 0, "opaque": 0, "bf16": 2, "c64": 8, "c128": 16}
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](\{[^{}]*\})?")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}")


class Buffer(NamedTuple):
    """One array: its bytes, and whether it lies in the chip's main memory (HBM) rather than in a scratchpad."""

    size: int
    in_hbm: bool


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
        name: name of its result.
        opcode: such as "fusion".
        buffers: arrays of its result; several where it is a tuple.
        operands: names.
        called: names of the computations that it runs.
        text: the whole line.
    """

    name: str
    opcode: str
    buffers: tuple[Buffer, ...]
    operands: tuple[str, ...]
    called: tuple[str, ...]
    text: str


class Program(NamedTuple):
    """A module.

    Attributes:
        entry: the name of the computation that runs first.
        computations: name -> instructions in order; the last one is the root.
    """

    entry: str
    computations: dict[str, list[Instruction]]


def parse(text: str) -> Program:
    """Read `jax.stages.Compiled.as_text()`."""
    entry, computations, current = "", {}, None
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current.append(_instruction(found[1], line, found.end()))
    return Program(entry, computations)


def element_bytes(kind: str) -> float:
    """Bytes of one number of an element type, such as 4 of f32."""
    if kind in _BYTES:
        return _BYTES[kind]
    digits = re.search(r"\d+", kind)
    return int(digits[0]) / 8 if digits else 0


def buffers(kind: str) -> tuple[Buffer, ...]:
    """The arrays in a type such as `(f32[8,128]{1,0:T(8,128)S(1)}, s32[])`; S(1) is a TPU's scratchpad."""
    found = []
    for element, sides, layout in _SHAPE.findall(kind):
        count = 1
        for side in sides.split(",") if sides else ():
            count *= int(side)
        found.append(Buffer(int(count * element_bytes(element)), "S(" not in layout))
    return tuple(found)


def times(program: Program) -> dict[str, int]:
    """How often each computation runs in one run of the program: the body of a loop as often as the loop goes round."""
    found: dict[str, int] = defaultdict(int)

    def walk(name: str, count: int) -> None:
        found[name] += count
        for instruction in program.computations.get(name, ()):
            rounds = trips(program, instruction) if instruction.opcode == "while" else 1
            for called in instruction.called:
                walk(called, count * rounds)

    walk(program.entry, 1)
    return dict(found)


def fused(program: Program) -> set[str]:
    """The computations that are parts of other instructions, such as fusions, and not run by themselves."""
    runs = ("while", "conditional", "call", "async-start")
    instructions = (each for listed in program.computations.values() for each in listed)
    return {name for each in instructions if each.opcode not in runs for name in each.called}


def trips(program: Program, loop: Instruction) -> int:
    """How often a loop that counts from 0 goes round; 1 where its condition does not say."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.text):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.text)
    limits = [
        int(number[1])
        for instruction in program.computations.get(condition[1] if condition else "", ())
        if (number := re.search(r" s32\[\]\S* constant\((\d+)\)", instruction.text))
    ]
    return max(limits, default=1)


def _instruction(name: str, line: str, start: int) -> Instruction:
    kind, rest = _type(line, start)
    opcode = line[rest : line.index("(", rest)].strip()
    opening = line.index("(", rest)
    closing = _closing(line, opening)
    called = []
    for single, several in _CALLED.findall(line[closing:]):
        called += [single] if single else re.findall(r"[\w.\-]+", several)
    operands = tuple(re.findall(r"%([\w.\-]+)", line[opening:closing]))
    return Instruction(name, opcode, buffers(kind), operands, tuple(called), line)


def _type(line: str, start: int) -> tuple[str, int]:
    """The result's type, and where it ends."""
    end = _closing(line, start) + 1 if line[start] == "(" else line.index(" ", start)
    return line[start:end], end


def _closing(line: str, opening: int) -> int:
    depth = 0
    for position in range(opening, len(line)):
        depth += (line[position] == "(") - (line[position] == ")")
        if depth == 0:
            return position
    return len(line)
