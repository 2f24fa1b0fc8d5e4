"""Facts of a compiled program, read from its HLO text.

They describe what the program will execute: kernels, bytes, products and their dtypes, collectives,
layouts, copies. Nothing is executed, so there are no times.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Collection, Iterator, Sequence

from benchmarks.hlo import Array, Computation, Instruction, Program, parse

# Operations that launch nothing on a device.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("add-dependency", "opt-barrier", "partition-id", "replica-id", "domain"),
}
COLLECTIVES = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")
SLICES = ("dynamic-slice", "gather", "slice")  # read only the part that they return
DIMENSIONS = "NHWC"  # of feature maps in flaxres


@dataclasses.dataclass(frozen=True)
class ScheduledInstruction:
    """A scheduled instruction, with the instructions fused into it.

    Attributes:
      computation: computation of the instruction.
      instruction: the instruction.
      count: executions in a dispatch.
      in_step: False if a dispatch executes it once, outside its steps.
    """

    computation: Computation
    instruction: Instruction
    count: int
    in_step: bool


@dataclasses.dataclass(frozen=True)
class ProgramFacts:
    """Facts of a compiled program. Facts per step are means over the steps of a dispatch.

    Attributes:
      kernels: kernels and copies that a step launches. On a TPU, the instructions of its program.
      dispatch_kernels: kernels and copies that a dispatch launches outside its steps.
      bytes: bytes that the kernels of a step read and write in the device's main memory.
      dispatch_bytes: bytes that a dispatch reads and writes outside its steps.
      megacycles: XLA's static estimate of the cycles of a step in millions, without gathers and
        collectives; 0 if XLA gives none, which it does only for TPUs.
      loop_megacycles: part of `megacycles` in loops inside a step.
      dispatch_megacycles: estimate of the cycles of a dispatch outside its steps, in millions.
      all_reduces: all-reduces of a step.
      all_reduced_elements: elements that the all-reduces of a step add up.
      dispatch_all_reduces: all-reduces of a dispatch outside its steps.
      other_collectives: other collectives of a step by opcode.
      custom_calls: custom calls in the program by target.
      host_transfers: callbacks, transfers and feeds between host and device, by opcode or target.
      layouts: layouts of the feature maps that kernels of a step write, outermost dimension first.
      layout_changes: copies and transposes of feature maps in a step, by shape and layouts.
      products: convolutions and matrix products of a step, by operands and result.
      data_set_copies: instructions that write an array as large as the data set, which is the
        largest argument of dtype uint8.
      aliased: results that reuse the buffer of an argument.
    """

    kernels: float
    dispatch_kernels: int
    bytes: float
    dispatch_bytes: int
    megacycles: float
    loop_megacycles: float
    dispatch_megacycles: float
    all_reduces: float
    all_reduced_elements: float
    dispatch_all_reduces: int
    other_collectives: dict[str, float]
    custom_calls: dict[str, int]
    host_transfers: dict[str, int]
    layouts: dict[str, float]
    layout_changes: dict[str, float]
    products: dict[str, float]
    data_set_copies: list[str]
    aliased: int


def program_facts(text: str, num_steps: int = 1, local_batch: int = 0) -> ProgramFacts:
    """Computes the facts of a compiled program.

    Args:
      text: HLO text of the optimized program, of one device.
      num_steps: number of steps in the program.
      local_batch: images of a step on one device. A four-dimensional array with this first
        dimension is a feature map, unless an argument has the same dimensions (a convolution
        kernel).
    """
    program = parse(text)
    works = list(walk(program, num_steps))
    uint8 = [array for array in program.arguments if array.dtype == "u8"]
    data_set_size = max((array.size for array in uint8), default=0)
    feature_maps = FeatureMaps(program, local_batch)

    def per_step(works: Collection[tuple[str, ScheduledInstruction]]) -> dict[str, float]:
        counts: collections.Counter[str] = collections.Counter()
        for key, work in works:
            counts[key] += work.count
        return {key: count / num_steps for key, count in sorted(counts.items())}

    steps = [work for work in works if work.in_step]
    once = [work for work in works if not work.in_step]
    uses_tiles = "T(" in text  # only TPU programs have tiled layouts
    layouts, changes, products, collectives = [], [], [], []
    all_reduced = 0
    for work in steps:
        if kind := collective(work.instruction):
            collectives.append((kind, work))
            if kind == "all-reduce":
                sizes = (array.size for array in work.instruction.arrays)
                all_reduced += work.count * sum(sizes)
        layouts += [(name, work) for name in feature_maps.layouts(work.instruction)]
        inner = [(work.computation, work.instruction), *program.fused(work.instruction)]
        for computation, instruction in inner:
            if change := feature_maps.layout_change(computation, instruction):
                changes.append((change, work))
            if name := product(computation, instruction):
                products.append((name, work))
    by_kind = per_step(collectives)
    texts = (
        instruction
        for computation in program.computations.values()
        for instruction in computation.instructions.values()
    )
    instructions = list(texts)
    targets = collections.Counter(i.target for i in instructions if i.target)
    return ProgramFacts(
        kernels=sum(work.count for work in steps) / num_steps,
        dispatch_kernels=sum(work.count for work in once),
        bytes=sum(w.count * work_bytes(program, w, uses_tiles) for w in steps) / num_steps,
        dispatch_bytes=sum(w.count * work_bytes(program, w, uses_tiles) for w in once),
        megacycles=sum(w.count * cycles(w.instruction) for w in steps) / num_steps / 1e6,
        loop_megacycles=sum(w.count * cycles(w.instruction) for w in steps if w.count > num_steps)
        / num_steps
        / 1e6,
        dispatch_megacycles=sum(w.count * cycles(w.instruction) for w in once) / 1e6,
        all_reduces=by_kind.pop("all-reduce", 0.0),
        all_reduced_elements=all_reduced / num_steps,
        dispatch_all_reduces=sum(
            work.count for work in once if collective(work.instruction) == "all-reduce"
        ),
        other_collectives=by_kind,
        custom_calls=dict(sorted(targets.items())),
        host_transfers=host_transfers(instructions),
        layouts=per_step(layouts),
        layout_changes=per_step(changes),
        products=per_step(products),
        data_set_copies=[
            f"{work.instruction.name}: {_describe(array)}"
            for work in works
            for array in work.instruction.arrays
            if data_set_size > 1 and array.size == data_set_size
        ],
        aliased=program.num_aliased,
    )


def walk(program: Program, num_steps: int = 1) -> Iterator[ScheduledInstruction]:
    """Yields the executed instructions in order, expanding loops and calls.

    The first loop with `num_steps` iterations is the loop over steps; without one, XLA has unrolled
    it and everything counts as steps. All branches count.
    """
    entry = program.computations[program.entry]
    loops = [
        instruction
        for instruction in _called_instructions(program, entry)
        if instruction.opcode == "while" and program.trip_count(instruction) == num_steps
    ]
    step_loop = loops[0].name if num_steps > 1 and loops else None

    def visit(
        computation: Computation, count: int, in_step: bool
    ) -> Iterator[ScheduledInstruction]:
        for instruction in computation.instructions.values():
            opcode, called = instruction.opcode, instruction.called
            if opcode == "while":
                inner = count * program.trip_count(instruction)
                inside = in_step or instruction.name == step_loop
                for name in (*called["condition"], *called["body"]):
                    yield from visit(program.computations[name], inner, inside)
            elif opcode in ("call", "conditional", "async-start"):
                for names in called.values():
                    for name in names:
                        yield from visit(program.computations[name], count, in_step)
            elif opcode not in FREE and not opcode.endswith(("-done", "-update")):
                yield ScheduledInstruction(computation, instruction, count, in_step)

    yield from visit(entry, 1, step_loop is None)


def _called_instructions(program: Program, computation: Computation) -> Iterator[Instruction]:
    """Yields the instructions of a computation and of those that it calls, except loops."""
    for instruction in computation.instructions.values():
        yield instruction
        if instruction.opcode == "call":
            for name in instruction.called.get("to_apply", ()):
                yield from _called_instructions(program, program.computations[name])


def cycles(instruction: Instruction) -> int:
    """Returns XLA's static estimate of the cycles of an instruction on a TPU; 0 without one."""
    match = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
    return int(match[1]) if match else 0


def collective(instruction: Instruction) -> str | None:
    """Returns the opcode of a collective without '-start', or None for another instruction."""
    opcode = instruction.opcode.removesuffix("-start")
    return opcode if opcode in ("all-reduce", *COLLECTIVES) else None


def host_transfers(instructions: Sequence[Instruction]) -> dict[str, int]:
    """Counts callbacks, transfers and feeds between host and device by opcode or target."""
    counts: collections.Counter[str] = collections.Counter()
    for instruction in instructions:
        if "callback" in instruction.target:
            counts[instruction.target] += 1
        elif instruction.opcode in ("infeed", "outfeed"):
            counts[instruction.opcode] += 1
        elif instruction.opcode in ("send", "recv"):
            counts[instruction.opcode] += "is_host_transfer=true" in instruction.attributes
    return {name: count for name, count in sorted(counts.items()) if count}


def product(computation: Computation, instruction: Instruction) -> str | None:
    """Returns the kind and the dtypes of a convolution or a matrix product, else None.

    Returns:
      For example 'convolution bf16 x bf16 -> f32'.
    """
    target = instruction.target
    if instruction.opcode in ("convolution", "dot"):
        kind = instruction.opcode
    elif target.startswith("__cudnn$conv"):
        kind = "convolution"
    elif target.startswith(("__cublas$", "__triton_gemm")):
        kind = "dot"
    else:
        return None
    left, right, *_ = (operand.arrays[0].dtype for operand in computation.operands(instruction))
    return f"{kind} {left} x {right} -> {instruction.arrays[0].dtype}"


def work_bytes(program: Program, work: ScheduledInstruction, uses_tiles: bool = False) -> int:
    """Returns the bytes that an instruction reads and writes in the main memory of the device.

    If a kernel uses only a slice of an operand, only the slice counts; of an update in place, only
    the update. Caches are ignored.

    Args:
      program: the program.
      work: the instruction.
      uses_tiles: True for the program of a TPU, whose memory space 0 is the main memory.
    """

    def size(arrays: Sequence[Array]) -> int:
        return sum(a.nbytes for a in arrays if not (uses_tiles and a.memory_space))

    computation, instruction = work.computation, work.instruction
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
        return f"{instruction.opcode} {_describe(operand)} -> {_describe(result)}"


def _layout(array: Array) -> str:
    """Returns the dimensions of a feature map from the outermost to the innermost in memory."""
    return "".join(DIMENSIONS[axis] for axis in array.major_to_minor)


def _describe(array: Array) -> str:
    """Returns dtype, shape and order of an array, such as 'f32[8,8]{1,0}'."""
    order = ",".join(map(str, array.minor_to_major))
    return f"{array.dtype}[{','.join(map(str, array.shape))}]{{{order}}}"
