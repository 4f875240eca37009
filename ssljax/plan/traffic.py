"""Bytes that a compiled step moves between a chip and its memory: an estimate from the program's text."""

import re

from ssljax.plan import hlo
from ssljax.plan.collectives import KINDS

_FREE = {
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "iota",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
    "while",
    "conditional",
    "call",
}
_PART = {"slice", "dynamic-slice", "gather"}


def hbm_bytes(program: hlo.Program) -> float:
    """Bytes read from and written to main memory in one run of the program.

    What a fusion keeps to itself and what lies in the scratchpad is free; where only a slice of an array is read or
    written, the slice counts. Reuse of what was just read is not seen, so that this is more than a chip would move.
    """
    counts, fused = hlo.times(program), hlo.fused(program)
    total = 0.0
    for name, instructions in program.computations.items():
        if name in fused or not counts.get(name):
            continue
        by_name = {instruction.name: instruction for instruction in instructions}
        total += counts[name] * sum(_moved(program, each, by_name) for each in instructions)
    return total


def _moved(program: hlo.Program, instruction: hlo.Instruction, by_name: dict[str, hlo.Instruction]) -> float:
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith(("-done", "-update")) or opcode == "async-start":
        return 0.0
    if opcode in ("copy-start", "slice-start"):
        return _copied(instruction)
    if opcode in _PART:
        return 2.0 * _hbm(instruction)
    if opcode == "dynamic-update-slice":
        return 2.0 * _hbm(by_name.get(instruction.operands[1]))
    if opcode == "fusion":
        return _fusion(program, instruction, by_name)
    return _hbm(instruction) + sum(_hbm(by_name.get(operand)) for operand in set(instruction.operands))


def _hbm(instruction: hlo.Instruction | None) -> float:
    return float(sum(buffer.size for buffer in instruction.buffers if buffer.in_hbm)) if instruction else 0.0


def _copied(instruction: hlo.Instruction) -> float:
    """A copy in the background, whose type is (source, result, ...) or the reverse: the smaller of the two moves."""
    first, second, *_ = instruction.buffers
    return float(min(first.size, second.size) * (first.in_hbm + second.in_hbm))


def _fusion(program: hlo.Program, instruction: hlo.Instruction, by_name: dict[str, hlo.Instruction]) -> float:
    inside = program.computations.get(instruction.called[0], []) if instruction.called else []
    results, operands = _under_way(inside, instruction)
    kept = sum(buffer.size for number, buffer in enumerate(instruction.buffers) if number in results and buffer.in_hbm)
    total = _written(program, inside, instruction) - kept
    for number, operand in enumerate(instruction.operands):
        whole = _hbm(by_name.get(operand))
        if whole and number not in operands:
            total += min(whole, _read(program, inside, number))
    return total


def _under_way(inside: list[hlo.Instruction], instruction: hlo.Instruction) -> tuple[set[int], set[int]]:
    """Numbers of the results and operands that a collective holds while it runs alongside other work.

    Such a collective is part of every fusion that runs meanwhile, and its arrays are passed from one to the next; the
    fusion that starts it has them as new results, so that they count there.
    """
    if not any(each.opcode in KINDS for each in inside):
        return set(), set()
    pairs = re.findall(r"\{(\d*)\}: \((\d+), \{\}", instruction.text)
    return {int(result or 0) for result, _ in pairs}, {int(operand) for _, operand in pairs}


def _read(program: hlo.Program, inside: list[hlo.Instruction], number: int) -> float:
    """Bytes of parameter `number` that a fused computation reads; infinite where it reads all."""
    own = next((each.name for each in inside if each.opcode == "parameter" and f"parameter({number})" in each.text), "")
    return _read_of(program, inside, own)


def _read_of(program: hlo.Program, inside: list[hlo.Instruction], name: str) -> float:
    total = 0.0
    for user in inside:
        if name not in user.operands:
            continue
        size = float(sum(buffer.size for buffer in user.buffers))
        if user.opcode in _PART and user.operands[0] == name:
            total += size
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            total += 0.0  # overwritten in place
        elif user.opcode == "bitcast":
            total += _read_of(program, inside, user.name)
        elif user.opcode == "fusion" and user.called:
            deeper = program.computations.get(user.called[0], [])
            total += sum(_read(program, deeper, k) for k, operand in enumerate(user.operands) if operand == name)
        else:
            return float("inf")
    return total


def _written(program: hlo.Program, inside: list[hlo.Instruction], instruction: hlo.Instruction) -> float:
    """Bytes of a fusion's result: of the slice that is new where it changes one in place."""
    whole = _hbm(instruction)
    if not whole or not inside:
        return whole
    by_name = {each.name: each for each in inside}
    root = inside[-1]
    while root.opcode == "bitcast" and root.operands and root.operands[0] in by_name:
        root = by_name[root.operands[0]]
    if root.opcode == "dynamic-update-slice" and root.operands[1] in by_name:
        return float(sum(buffer.size for buffer in by_name[root.operands[1]].buffers))
    if root.opcode == "fusion" and root.called:
        return min(whole, _written(program, program.computations.get(root.called[0], []), instruction))
    return whole
