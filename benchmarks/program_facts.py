"""Facts of a compiled program, read from its HLO text.

They describe what the program will execute: kernels, bytes, products and their dtypes, collectives,
layouts, copies. Nothing is executed, so there are no times.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from benchmarks.feature_maps import FeatureMaps
from benchmarks.hlo import Computation, Instruction, Program, parse
from benchmarks.memory_traffic import instruction_bytes

# Operations that launch nothing on a device.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("add-dependency", "opt-barrier", "partition-id", "replica-id", "domain"),
}
COLLECTIVES = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")


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

    uses_tiles = "T(" in text  # only TPU programs have tiled layouts

    def total_bytes(works: Iterable[ScheduledInstruction]) -> int:
        return sum(
            work.count * instruction_bytes(program, work.computation, work.instruction, uses_tiles)
            for work in works
        )

    def total_cycles(works: Iterable[ScheduledInstruction]) -> int:
        return sum(work.count * cycles(work.instruction) for work in works)

    steps = [work for work in works if work.in_step]
    once = [work for work in works if not work.in_step]
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
    instructions = [
        instruction
        for computation in program.computations.values()
        for instruction in computation.instructions.values()
    ]
    targets = collections.Counter(i.target for i in instructions if i.target)
    return ProgramFacts(
        kernels=sum(work.count for work in steps) / num_steps,
        dispatch_kernels=sum(work.count for work in once),
        bytes=total_bytes(steps) / num_steps,
        dispatch_bytes=total_bytes(once),
        megacycles=total_cycles(steps) / num_steps / 1e6,
        loop_megacycles=total_cycles(w for w in steps if w.count > num_steps) / num_steps / 1e6,
        dispatch_megacycles=total_cycles(once) / 1e6,
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
            f"{work.instruction.name}: {array}"
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
