"""Bytes that the instructions of a compiled program read and write in the main memory."""

from __future__ import annotations

import re
from collections.abc import Sequence

from benchmarks.hlo import Array, Computation, Instruction, Program

SLICES = ("dynamic-slice", "gather", "slice")  # read only the part that they return


def instruction_bytes(
    program: Program, computation: Computation, instruction: Instruction, uses_tiles: bool = False
) -> int:
    """Returns the bytes that an instruction reads and writes in the main memory of the device.

    If a kernel uses only a slice of an operand, only the slice counts; of an update in place, only
    the update. Caches are ignored.

    Args:
      program: the program.
      computation: computation of the instruction.
      instruction: the instruction.
      uses_tiles: True for the program of a TPU, whose memory space 0 is the main memory.
    """

    def size(arrays: Sequence[Array]) -> int:
        return sum(a.nbytes for a in arrays if not (uses_tiles and a.memory_space))

    operands = computation.operands(instruction)
    opcode = instruction.opcode
    if opcode.startswith("copy-start"):  # its result contains the operand
        return size(instruction.arrays[:1]) + size(operands[0].arrays)
    if opcode in SLICES:
        return 2 * size(instruction.arrays) + sum(size(o.arrays) for o in operands[1:])
    if opcode == "dynamic-update-slice":
        return 2 * size(operands[1].arrays)
    if opcode != "fusion":
        return size(instruction.arrays) + sum(size(o.arrays) for o in operands)
    (name,) = instruction.called["calls"]
    fused = program.computations[name]
    parameters = [i for i in fused.instructions.values() if i.opcode == "parameter"]
    total = 0
    for parameter in parameters:
        match = re.match(r"parameter\((\d+)\)", parameter.attributes)
        assert match
        operand = operands[int(match[1])]
        used = _used_bytes(fused, parameter)
        total += size(operand.arrays) if used is None else min(used, size(operand.arrays))
    return total + _written_bytes(fused, instruction, size(instruction.arrays))


def _used_bytes(computation: Computation, instruction: Instruction) -> int | None:
    """Returns the bytes of a value that slices read, or None if an instruction reads all of it."""
    total = 0
    for user in computation.users[instruction.name]:
        is_first = user.operands[0] == instruction.name
        if user.opcode == "bitcast":
            used = _used_bytes(computation, user)
            if used is None:
                return None
            total += used
        elif user.opcode in SLICES and is_first:
            total += sum(array.nbytes for array in user.arrays)
        elif not (user.opcode == "dynamic-update-slice" and is_first):
            return None
    return total if computation.users[instruction.name] else None


def _written_bytes(fused: Computation, instruction: Instruction, size: int) -> int:
    """Returns the bytes that a fusion writes: the update of an update in place, or the result."""
    root = fused.instructions[fused.root]
    while root.opcode == "bitcast":
        root = fused.operands(root)[0]
    if root.opcode != "dynamic-update-slice":
        return size
    return min(size, sum(array.nbytes for array in fused.operands(root)[1].arrays))
