"""Parser of XLA's HLO text: the computations of a compiled program and their instructions.

JAX returns such a text from `compiled.as_text()`. The parser keeps only what `program_facts` needs.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

ITEM_BITS = {"pred": 8, "token": 0, "opaque": 0}  # other dtypes have their bits in their names
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([\d,]*)(?::([^{}]*))?\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^  (ROOT )?%?([\w.\-]+) = ")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
    r"|\b(branch_computations|called_computations)=\{([^}]*)\}"
)


@dataclasses.dataclass(frozen=True)
class Array:
    """Type of an array.

    Attributes:
      dtype: XLA's name of the dtype, such as 'f32'.
      shape: sizes of the dimensions.
      minor_to_major: dimensions from the innermost to the outermost in memory.
      tile: sizes of a tile of the most minor dimensions; () without tiles.
      memory_space: number of the memory; 0 is the main memory of the device.
    """

    dtype: str
    shape: tuple[int, ...]
    minor_to_major: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    memory_space: int = 0

    def __str__(self) -> str:
        """Returns dtype, shape and order, such as 'f32[8,8]{1,0}'."""
        order = ",".join(map(str, self.minor_to_major))
        return f"{self.dtype}[{','.join(map(str, self.shape))}]{{{order}}}"

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def major_to_minor(self) -> tuple[int, ...]:
        """Dimensions from the outermost to the innermost in memory."""
        return self.minor_to_major[::-1] or tuple(range(len(self.shape)))

    @property
    def nbytes(self) -> int:
        """Bytes in memory, including the padding of tiles; scalars have none."""
        tiles = self.tile if self.shape else ()
        sizes = [self.shape[axis] for axis in self.major_to_minor]
        sizes = [1] * (len(tiles) - len(sizes)) + sizes
        for i, tile in enumerate(tiles, len(sizes) - len(tiles)):
            sizes[i] = -(-sizes[i] // tile) * tile
        digits = re.search(r"\d+", self.dtype)
        bits = ITEM_BITS.get(self.dtype) if digits is None else int(digits[0])
        return math.prod(sizes) * (bits or 0) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction of a computation.

    Attributes:
      name: name, unique in the program.
      opcode: operation, such as 'fusion'.
      arrays: types of the result; several for a tuple.
      operands: names of the operands, in the same computation.
      attributes: rest of the line.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str

    @property
    def called(self) -> dict[str, list[str]]:
        """Names of the computations that the instruction calls, by attribute."""
        called: dict[str, list[str]] = {}
        for key, name, plural, names in _CALLED.findall(self.attributes):
            called.setdefault(key or plural, []).extend(
                [name] if key else re.findall(r"[\w.\-]+", names)
            )
        return called

    @property
    def target(self) -> str:
        """Target of a custom call, or ''."""
        match = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return match[1] if match else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """A computation.

    Attributes:
      name: name.
      instructions: instructions by name, in the order of the text.
      root: name of the instruction whose value is the result.
    """

    name: str
    instructions: Mapping[str, Instruction]
    root: str

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """Returns the instructions that compute the operands."""
        return [self.instructions[name] for name in instruction.operands]

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Instructions that use each instruction, by its name."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for name in dict.fromkeys(instruction.operands):
                users[name].append(instruction)
        return users


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      header: first line of the text.
      computations: computations by name.
      entry: name of the computation that runs first.
    """

    header: str
    computations: Mapping[str, Computation]
    entry: str

    @property
    def num_aliased(self) -> int:
        """Number of results that reuse the buffer of an argument."""
        return len(re.findall(r"\(\d+, \{[\d, ]*\}, (?:may|must)-alias\)", self.header))

    @property
    def arguments(self) -> list[Array]:
        """Arrays that the program gets as arguments."""
        return [
            array
            for instruction in self.computations[self.entry].instructions.values()
            if instruction.opcode == "parameter"
            for array in instruction.arrays
        ]

    def fused(self, instruction: Instruction) -> Iterator[tuple[Computation, Instruction]]:
        """Yields the instruction's fused instructions, also nested ones, with their computation."""
        for name in instruction.called.get("calls", ()):
            computation = self.computations[name]
            for inner in computation.instructions.values():
                yield computation, inner
                if inner.opcode == "fusion":
                    yield from self.fused(inner)

    def trip_count(self, loop: Instruction) -> int:
        """Returns the number of iterations of a while loop, or 1 if the text does not state it.

        XLA annotates most loops. Otherwise the condition compares a counter that starts at 0 with
        a constant.
        """
        if match := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
            return int(match[1])
        (name,) = loop.called["condition"]
        condition = self.computations[name]
        root = condition.instructions[condition.root]
        for operand in condition.operands(root):
            constant = re.match(r"constant\((\d+)\)", operand.attributes)
            if root.opcode == "compare" and "direction=LT" in root.attributes and constant:
                return int(constant[1])
        return 1


def parse(text: str) -> Program:
    """Parses the text of a compiled program.

    Args:
      text: HLO text of a module, with or without types of the operands.
    """
    header, _, body = text.partition("\n")
    computations: dict[str, Computation] = {}
    entry = name = root = ""
    instructions: dict[str, Instruction] = {}
    for line in body.splitlines():
        if match := _INSTRUCTION.match(line):
            instruction = _parse_instruction(match[2], line[match.end() :])
            instructions[instruction.name] = instruction
            root = instruction.name if match[1] else root
        elif match := _COMPUTATION.match(line):
            name, instructions, root = match[2], {}, ""
            entry = name if match[1] else entry
        elif line.startswith("}") and name:
            computations[name] = Computation(name, instructions, root)
            name = ""
    return Program(header, computations, entry)


def parse_arrays(text: str) -> tuple[Array, ...]:
    """Parses a type: an array, or a tuple of arrays, which may be nested."""
    return tuple(
        Array(
            dtype,
            tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size),
            tuple(map(int, layout.split(","))) if layout else (),
            _numbers(r"T\(([\d,]+)\)", details),
            (_numbers(r"S\((\d+)\)", details) or (0,))[0],
        )
        for dtype, sizes, layout, details in _ARRAY.findall(text)
    )


def _numbers(pattern: str, text: str) -> tuple[int, ...]:
    match = re.search(pattern, text)
    return tuple(map(int, match[1].split(","))) if match else ()


def _parse_instruction(name: str, text: str) -> Instruction:
    """Parses the line after the name of an instruction: type, opcode, operands, attributes."""
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    opening = text.index("(", end)
    closing = _closing(text, opening)
    opcode, inside = text[end:opening].strip(), text[opening + 1 : closing - 1]
    attributes = text[closing:]
    operands: tuple[str, ...] = ()
    if opcode in ("constant", "parameter"):
        attributes = f"{opcode}({inside}){attributes}"
    else:
        operands = tuple(_NAME.findall(inside))
    return Instruction(name, opcode, parse_arrays(text[:end]), operands, attributes)


def _closing(text: str, opening: int) -> int:
    """Returns the index after the parenthesis that closes the one at `opening`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.end()
    raise ValueError(f"unbalanced parentheses in {text[:100]!r}")
