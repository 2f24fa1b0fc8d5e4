"""Feature maps in a compiled program: their layouts, and the copies that change these."""

from __future__ import annotations

import re

from benchmarks.hlo import Array, Computation, Instruction, Program

DIMENSIONS = "NHWC"  # of feature maps in flaxres


class FeatureMaps:
    """Recognizes feature maps by their shapes."""

    def __init__(self, program: Program, local_batch: int):
        """Reads the shapes of the arguments, which are no feature maps.

        Args:
          program: the program.
          local_batch: images of a step on the device.
        """
        self._local_batch = local_batch
        self._argument_sizes = {tuple(sorted(array.shape)) for array in program.arguments}

    def contains(self, array: Array) -> bool:
        """Returns True for a feature map (batch, height, width, channels)."""
        return (
            len(array.shape) == len(DIMENSIONS)
            and array.shape[0] == self._local_batch
            and tuple(sorted(array.shape)) not in self._argument_sizes
        )

    def layouts(self, instruction: Instruction) -> list[str]:
        """Returns the layouts of the feature maps that an instruction returns, such as 'NHWC'."""
        return [_layout(array) for array in instruction.arrays if self.contains(array)]

    def layout_change(self, computation: Computation, instruction: Instruction) -> str | None:
        """Describes a copy or a transpose that moves the elements of a feature map, or None."""
        if instruction.opcode not in ("copy", "transpose") or not instruction.operands:
            return None
        (result,), (operand,) = instruction.arrays, computation.operands(instruction)[0].arrays
        axes = tuple(range(len(result.shape)))
        if match := re.search(r"dimensions=\{([\d,]+)\}", instruction.attributes):
            axes = tuple(map(int, match[1].split(",")))  # result axis i is operand axis axes[i]
        before = [axis for axis in operand.major_to_minor if operand.shape[axis] > 1]
        after = [axes[axis] for axis in result.major_to_minor if result.shape[axis] > 1]
        if before == after or not (self.contains(result) or self.contains(operand)):
            return None
        return f"{instruction.opcode} {operand} -> {result}"


def _layout(array: Array) -> str:
    """Returns the dimensions of a feature map from the outermost to the innermost in memory."""
    return "".join(DIMENSIONS[axis] for axis in array.major_to_minor)
