"""Estimated step time on many chips, from compiled programs and the latencies of the links.

PROGRAMS="benchmarks.programs --config=configs/cifar10.py:resnet-20 --config.dtype=bfloat16"
python -m $PROGRAMS --devices=v5e:1 --json=a.json
python -m $PROGRAMS --devices=v5e:1 --config.batch_size=1024 --json=b.json
python -m $PROGRAMS --devices=v5e:8 --json=c.json
python -m benchmarks.pod_cost --programs=a.json,b.json,c.json

A step takes the time of its computation and that of its all-reduces. The computation is limited by
memory bandwidth, by XLA's static cycles (TPUs) or by the launches of kernels (GPUs). Bytes and
cycles are interpolated between the programs, by the images on a chip. All-reduces wait for one
another, as in batch norm with bn_scope='global', and do not overlap with the computation. Nothing
is measured: read the result as an order of magnitude.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.report import print_table, write_json
from flaxres import cli
from flaxres.config import flatten
from flaxres.errors import ConfigError, one_line

PROGRAMS = flags.DEFINE_list(
    "programs",
    None,
    "JSON files of benchmarks.programs: one chip with different batch sizes, and several chips.",
    required=True,
)
CHIPS = flags.DEFINE_list("chips", ["8", "32", "256"], "Numbers of chips, such as 8,32.")
BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes", ["128", "1024", "8192"], "Images per step, such as 128,1024."
)
JSON = flags.DEFINE_string(
    "json", None, "File for the JSON result, e.g. cost.json (default: print it)."
)

# Facts of a program by their types, as in its JSON file.
FACTS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "step", "device"), str),
    "config": dict,
    "devices": int,
    **dict.fromkeys(("images_on_a_device", "bytes", "megacycles", "kernels"), (int, float)),
    **dict.fromkeys(("all_reduces", "all_reduced_elements"), (int, float)),
}
VARIED_FIELDS = ("batch_size", "bn_scope")  # of the configs of programs that belong together
MAX_IMAGES_ON_A_CHIP = 2**20  # of the search for the batch size that scales
FLOAT32_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Chip:
    """Speed of a chip and of the links between chips.

    Attributes:
      clock: cycles per second to which XLA's static cycles refer; 0 if XLA states none.
      memory_bandwidth: bytes per second that a chip reads and writes.
      launch_seconds: time from the start of a kernel to that of the next, if both are empty.
      link_bandwidth: bytes per second that a chip sends to others during an all-reduce.
      base_latency: seconds of an all-reduce without any hop.
      hop_latency: seconds of a hop between neighboring chips of a node or torus.
      node_size: chips that hops of `hop_latency` connect; 0 for a torus of any size.
      node_hop_latency: seconds of a hop between nodes.
    """

    clock: float
    memory_bandwidth: float
    launch_seconds: float
    link_bandwidth: float
    base_latency: float
    hop_latency: float
    node_size: int = 0
    node_hop_latency: float = 0.0

    def all_reduce_seconds(self, chips: int, num_bytes: float) -> float:
        """Returns the time of one all-reduce.

        Args:
          chips: number of chips.
          num_bytes: bytes of the array on each chip.
        """
        if chips == 1:
            return 0.0
        transfer = 2 * num_bytes * (chips - 1) / chips / self.link_bandwidth
        return self.base_latency + self._hop_seconds(chips) + transfer

    def _hop_seconds(self, chips: int) -> float:
        if not self.node_size:
            # To the farthest chip of a square torus and back, along both axes.
            return 2 * 2 * (math.isqrt(chips - 1) + 1) / 2 * self.hop_latency
        inside = min(chips, self.node_size) - 1
        nodes = -(-chips // self.node_size)
        return 2 * (inside * self.hop_latency + math.log2(nodes) * self.node_hop_latency)


CHIPS_BY_NAME = {
    # Google Cloud, "TPU v5e": 197 TFLOP/s from four units of 128 x 128 multiply-adds, 819 GB/s, and
    # 400 GB/s in both directions together. A hop takes about 1 us: Austin et al. 2025, "How to
    # Scale Your Model", part 3.
    "v5e": Chip(
        clock=197e12 / (4 * 128 * 128 * 2),
        memory_bandwidth=819e9,
        launch_seconds=0.0,
        link_bandwidth=200e9,
        base_latency=0.0,
        hop_latency=1e-6,
    ),
    # NVIDIA, "H100 SXM": 3.35 TB/s, NVLink with 450 GB/s in each direction, 400 Gbit/s InfiniBand.
    # Latencies: NCCL 2.18, src/graph/tuning.cc, tree with protocol LL. A kernel in a CUDA graph
    # takes 2 us or more: an assumption.
    "h100": Chip(
        clock=0.0,
        memory_bandwidth=3.35e12,
        launch_seconds=2e-6,
        link_bandwidth=50e9,
        base_latency=6.8e-6,
        hop_latency=0.6e-6,
        node_size=8,
        node_hop_latency=5e-6,
    ),
}


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Cost of a step as a function of the chips and the batch size.

    Attributes:
      chip: the chip.
      images: images on a chip in each program, ascending.
      num_bytes: bytes that a step of each program reads and writes.
      megacycles: XLA's static cycles of a step of each program, in millions.
      kernels: kernels of a step on one chip, and on several.
      all_reduces: number of all-reduces in a step on several chips.
      all_reduced_bytes: bytes that they carry together.
    """

    chip: Chip
    images: tuple[float, ...]
    num_bytes: tuple[float, ...]
    megacycles: tuple[float, ...]
    kernels: tuple[float, float]
    all_reduces: float
    all_reduced_bytes: float

    @classmethod
    def from_programs(cls, programs: Sequence[Mapping[str, Any]]) -> StepCost:
        """Derives the cost from compiled programs of one model.

        Args:
          programs: facts of at least one program for one chip and one for several, with different
            numbers of images on a chip.

        Raises:
          ConfigError: the programs do not belong together, or the chip is unknown.
        """
        kinds = {program["name"].partition(":")[0] for program in programs}
        if len(kinds) != 1 or not kinds <= CHIPS_BY_NAME.keys():
            raise ConfigError(
                "--programs must be for one kind of chip, "
                f"{' or '.join(CHIPS_BY_NAME)}, got {', '.join(p['name'] for p in programs)}"
            )
        if different := _different_fields(programs):
            raise ConfigError(
                f"--programs must have equal configs except for {' and '.join(VARIED_FIELDS)}, but "
                f"they differ in {', '.join(different)}"
            )
        programs = sorted(programs, key=lambda program: program["images_on_a_device"])
        single = [program for program in programs if program["devices"] == 1]
        several = [program for program in programs if program["devices"] > 1]
        images = tuple(program["images_on_a_device"] for program in programs)
        if not single or not several or len(set(images)) < len(images):
            names = ", ".join(
                f"{p['name']} with {p['images_on_a_device']} images" for p in programs
            )
            raise ConfigError(
                "--programs must have one for one chip and one for several, with different numbers "
                f"of images on a chip, got {names}"
            )
        many = several[-1]
        return cls(
            chip=CHIPS_BY_NAME[kinds.pop()],
            images=images,
            num_bytes=tuple(program["bytes"] for program in programs),
            megacycles=tuple(program["megacycles"] for program in programs),
            kernels=(single[-1]["kernels"], many["kernels"]),
            all_reduces=many["all_reduces"],
            all_reduced_bytes=FLOAT32_BYTES * many["all_reduced_elements"],
        )

    def _interpolate(self, values: tuple[float, ...], images: float) -> float:
        """Returns a quantity for a number of images; beyond the last program it grows on."""
        if images <= self.images[-1]:
            return float(np.interp(images, self.images, values))
        slope = (values[-1] - values[-2]) / (self.images[-1] - self.images[-2])
        return values[-1] + max(0.0, slope) * (images - self.images[-1])

    def compute_seconds(self, chips: int, images: float) -> float:
        """Returns the time of a step without its all-reduces.

        Args:
          chips: number of chips.
          images: images of a step on each chip.
        """
        chip = self.chip
        cycles = 1e6 * self._interpolate(self.megacycles, images)
        return max(
            self._interpolate(self.num_bytes, images) / chip.memory_bandwidth,
            cycles / chip.clock if chip.clock else 0.0,
            self.kernels[chips > 1] * chip.launch_seconds,
        )

    def step_seconds(self, chips: int, batch_size: int) -> float:
        """Returns the time of a step."""
        compute = self.compute_seconds(chips, batch_size / chips)
        mean_bytes = self.all_reduced_bytes / max(1, self.all_reduces)
        return compute + self.all_reduces * self.chip.all_reduce_seconds(chips, mean_bytes)

    def speedup(self, chips: int, batch_size: int) -> float:
        """Returns how many times faster a step is than on one chip."""
        return self.step_seconds(1, batch_size) / self.step_seconds(chips, batch_size)

    def scaling_batch_size(self, chips: int) -> int | None:
        """Returns the smallest batch size, a power of two, at which half of the chips is not lost.

        The speedup is then at least half the number of chips. None if no batch size reaches it.
        """
        images = 1
        while images <= MAX_IMAGES_ON_A_CHIP:
            batch_size = images * chips
            if self.speedup(chips, batch_size) >= chips / 2:
                return batch_size
            images *= 2
        return None


def _different_fields(programs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the fields in which programs differ that must not, such as 'step' or 'dtype'."""
    one, *others = ({"step": p["step"], **flatten(p["config"])} for p in programs)
    names = one.keys() | {name for other in others for name in other}
    return sorted(
        name
        for name in names - set(VARIED_FIELDS)
        if any(other.get(name) != one.get(name) for other in others)
    )


def read_program(path: str) -> dict[str, Any]:
    """Reads the JSON file of `benchmarks.programs`.

    Raises:
      ConfigError: the file cannot be read, or has other content.
    """
    try:
        program: dict[str, Any] = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {one_line(error)}") from None
    if not isinstance(program, dict) or not all(
        isinstance(program.get(name), kind) for name, kind in FACTS.items()
    ):
        raise ConfigError(f"{path} is not a result of benchmarks.programs")
    if program.get("fast"):
        raise ConfigError(f"{path} was compiled with --fast, so its kernels are not those of a run")
    return program


def positive_integers(flag: flags.FlagHolder[list[str]]) -> list[int]:
    """Parses a flag with a list of integers of at least 1.

    Raises:
      ConfigError: an item is something else.
    """
    if not all(item.isdecimal() and int(item) >= 1 for item in flag.value):
        raise ConfigError(f"--{flag.name} must list integers of at least 1, got {flag.value}")
    return [int(item) for item in flag.value]


def main() -> None:
    """Prints a table of step times and speedups, and writes the result."""
    programs = [read_program(path) for path in PROGRAMS.value]
    cost = StepCost.from_programs(programs)
    batch_sizes, rows, results = positive_integers(BATCH_SIZES), [], []
    for chips in positive_integers(CHIPS):
        row: list[Any] = [f"{chips}"]
        for batch_size in batch_sizes:
            seconds, speedup = cost.step_seconds(chips, batch_size), cost.speedup(chips, batch_size)
            row.append(f"{1e3 * seconds:.2f} ms, {speedup:.1f}x")
            results.append({"chips": chips, "batch_size": batch_size, "seconds": seconds})
        scaling = cost.scaling_batch_size(chips)
        row.append("none" if scaling is None else f"{scaling:,}")
        rows.append(row)
    print_table(
        f"estimated step on {programs[0]['device']}, {cost.all_reduces:.0f} all-reduces",
        ("chips", *(f"batch {size:,}" for size in batch_sizes), "batch size for 50 % efficiency"),
        rows,
    )
    write_json(JSON.value, {"cost": dataclasses.asdict(cost), "steps": results})


if __name__ == "__main__":
    cli.run(main, trains=False)
