"""flaxres's train step against PyTorch's.

python -m benchmarks.train_step --models=resnet-20,resnet-56,plain-56 --against=torch

Each is a process of its own that makes whole train steps, data path included, on random images.
They take turns, round by round, so that what else the machine does falls on all of them. PyTorch
runs in every mode that its users would try, and the ratio is that to the fastest; from the same
weights and images it must have the same losses. `pip install torch` first, or name an interpreter
that has it with --torch_python.

Shares of the ceilings are those of the fewest operations and bytes of a step (three times the
forward pass's multiply-adds; ten passes over the outputs of the convolutions), at the rates of a
large matrix product and a large copy measured in the same rounds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from benchmarks.process import Worker
from benchmarks.report import Spread, show, write
from flaxres import cli
from flaxres.cpu import runs_on_cpu
from flaxres.cpu.settings import MALLOC_TUNABLES
from flaxres.errors import ConfigError, UserError

MODELS = flags.DEFINE_list(
    "models", ["resnet-20", "resnet-56", "plain-56"], "Plain, or with option A."
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images of a step.")
IMAGE_SIZE = flags.DEFINE_integer("image_size", 32, "Height and width.")
CHANNELS = flags.DEFINE_integer("channels", 3, "Of the images; the digits have 1.")
AUGMENT = flags.DEFINE_bool("augment", True, "Random crops and flips.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the computation.")
AGAINST = flags.DEFINE_enum("against", "torch", ["torch", "none"], "The peer.")
MODES = flags.DEFINE_list("modes", None, "Of PyTorch; by default all that fit the device.")
TORCH_PYTHON = flags.DEFINE_string("torch_python", sys.executable, "Python that has PyTorch.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds that take each process in turn.")
SECONDS = flags.DEFINE_float("seconds", 3.0, "Of steps, in each round and process.")
CHECK = flags.DEFINE_bool("check", True, "Compare the losses of the first steps.")
COLD = flags.DEFINE_bool("cold", True, "Also time a start with empty caches of programs.")
JSON = flags.DEFINE_string("json", None, "File for the result.")

PASSES = 10  # over each convolution's output, forward and backward, batch norm and ReLU included
# Relative, of the first loss and of those after an update: rounding grows in deep plain nets.
TOLERANCES = {"float32": (1e-3, 3e-2), "bfloat16": (3e-2, 1e-1)}


@dataclasses.dataclass
class Side:
    """One of the processes that are compared.

    Attributes:
      name: flaxres, or PyTorch and its mode.
      worker: the process.
      cold_start: seconds to the first step with empty caches, if that was timed.
      seconds: of a step, in each round.
    """

    name: str
    worker: Worker
    cold_start: float | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)


def flaxres_command(net: str, **fields: Any) -> list[str]:
    """The command of flaxres's worker, with further fields of the config."""
    image = f"{IMAGE_SIZE.value},{IMAGE_SIZE.value},{CHANNELS.value}"
    fields = {"batch_size": BATCH_SIZE.value, "dtype": DTYPE.value} | fields
    if not AUGMENT.value:
        fields |= {"augment.pad": 0, "augment.flip": False}
    return [
        *(sys.executable, "-m", "benchmarks.flaxres_side"),
        f"--config=configs/cifar10.py:{net}",
        *(f"--config.{field}={value}" for field, value in fields.items()),
        *(f"--image={image}", f"--images={max(5_000, fields['batch_size'])}"),
    ]


def torch_command(net: str, mode: str) -> list[str]:
    """The command of PyTorch's worker."""
    name, depth, *option = net.split("-")
    if name not in ("plain", "resnet") or option not in ([], ["A"]):
        raise ConfigError(f"the peer has plain-DEPTH and resnet-DEPTH, got {net}")
    options = {
        "depth": int(depth),
        "plain": name == "plain",
        "mode": mode,
        "batch_size": BATCH_SIZE.value,
        "image": [IMAGE_SIZE.value, IMAGE_SIZE.value, CHANNELS.value],
        "images": max(5_000, BATCH_SIZE.value),
        "widths": [16, 32, 64],
        "dtype": DTYPE.value,
        "augment": AUGMENT.value,
    }
    return [TORCH_PYTHON.value, "-m", "benchmarks.torch_side", json.dumps(options)]


def start(name: str, command: Sequence[str], environment: dict[str, str]) -> Side:
    """Starts a process; one with empty caches before it, if asked for.

    Raises:
      UserError: it fails.
    """
    try:
        cold = None
        if COLD.value:
            with tempfile.TemporaryDirectory() as empty:
                caches = {"FLAXRES_CACHE": empty, "TORCHINDUCTOR_CACHE_DIR": empty}
                first = Worker(command, environment | caches)
                first.close()
                cold = first.ready["first_step"]
        return Side(name, Worker(command, environment), cold)
    except RuntimeError as error:
        raise UserError(f"{name}: {error}") from None


def start_all(net: str) -> list[Side]:
    """Starts flaxres first, then the peer in each of its modes."""
    sides = [start("flaxres", flaxres_command(net), {})]
    if AGAINST.value == "none":
        return sides
    on_cpu = runs_on_cpu()
    environment = {"PYTHONPATH": os.getcwd()}
    if on_cpu and sys.platform == "linux":
        environment["GLIBC_TUNABLES"] = MALLOC_TUNABLES  # flaxres sets them for itself
    default = ("eager", "compiled") if on_cpu else ("compiled", "graph-eager", "graph-compiled")
    for mode in MODES.value or default:
        try:
            sides.append(start(f"torch {mode}", torch_command(net, mode), environment))
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
    if len(sides) == 1:
        raise UserError(
            f"PyTorch did not run in any mode (see above); with {TORCH_PYTHON.value}: "
            "pip install torch, or name another with --torch_python"
        )
    return sides


def compare_losses(sides: Sequence[Side]) -> float:
    """The largest relative difference of any side's first loss from flaxres's; the next agree too.

    Raises:
      UserError: it is too large; then the peer is not the same net.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "weights.npz")
        checked = sides[0].worker.ask(check={"path": path})
        ours, rate = checked["losses"], checked["learning_rate"]
        request = {"path": path, "steps": len(ours), "rate": rate}
        largest = 0.0
        for side in sides[1:]:
            theirs = side.worker.ask(check=request)["losses"]
            differences = np.abs(np.subtract(theirs, ours)) / np.abs(ours)
            first, later = TOLERANCES[DTYPE.value]
            if not (differences[0] < first and np.all(differences < later)):
                raise UserError(f"losses differ: flaxres {ours}, {side.name} {theirs}")
            largest = max(largest, float(differences[0]))
    return largest


def compare(net: str) -> dict[str, Any]:
    """Runs the rounds for one net, prints its table and returns what was measured."""
    sides = start_all(net)
    ready = sides[0].worker.ready
    for side in sides:  # before anything else takes memory
        side.worker.ask(steps={"seconds": SECONDS.value})
    memory = {side.name: side.worker.ask(memory={}) for side in sides}
    difference = compare_losses(sides) if CHECK.value and len(sides) > 1 else None
    on_cpu = ready["platform"] == "cpu"
    size, copied = (4_096, 2**28) if on_cpu else (8_192, 2**32)
    request = {"dtype": DTYPE.value, "size": size, "copied": copied}
    ceilings = []
    for _ in range(ROUNDS.value):
        for side in sides:
            done = side.worker.ask(steps={"seconds": SECONDS.value})
            side.seconds.append(done["seconds"] / done["steps"])
        ceilings += [side.worker.ask(ceiling=request) for side in sides[:2]]
    best = {name: max(c[name] for c in ceilings) for name in ("flops", "bytes")}
    operations = 3 * 2 * ready["macs"] * BATCH_SIZE.value
    number_bytes = 2 if DTYPE.value == "bfloat16" else 4
    moved = PASSES * ready["conv_outputs"] * BATCH_SIZE.value * number_bytes
    result = {}
    for side in sides:
        step = Spread.of(side.seconds)
        result[side.name] = {
            "step_seconds": step,
            "steps_per_second": Spread.of([1 / s for s in side.seconds]),
            "images_per_second": Spread.of([BATCH_SIZE.value / s for s in side.seconds]),
            "share_of_matmul": operations / best["flops"] / step.median,
            "share_of_copy": moved / best["bytes"] / step.median,
            "memory_bytes": memory[side.name],
            "first_step_seconds": side.worker.ready["first_step"],
            "first_step_cold_seconds": side.cold_start,
            "compile_seconds": side.worker.ready["compile"],
            "version": side.worker.ready["version"],
        }
        side.worker.close()
    ratio = None
    if len(sides) > 1:
        peer = min(sides[1:], key=lambda side: np.median(side.seconds))
        ratio = Spread.of(np.divide(sides[0].seconds, peer.seconds))
        result["step_time_over_best_peer"] = {"peer": peer.name, "ratio": ratio}
    print_table(net, ready, sides, result, difference)
    return {"net": net, "device": ready["device"], "ceiling": best, **result}


def print_table(
    net: str, ready: dict, sides: Sequence[Side], result: dict, difference: float | None
) -> None:
    """Prints what was measured for one net."""
    title = (
        f"{net}, batch {BATCH_SIZE.value}, {IMAGE_SIZE.value}x{IMAGE_SIZE.value}x{CHANNELS.value}, "
        f"{DTYPE.value}, {ready['device']}"
    )
    rows = []
    for side in sides:
        own = result[side.name]
        cold = own["first_step_cold_seconds"]
        memory = own["memory_bytes"]["device"] or own["memory_bytes"]["host"]
        rows.append(
            [
                f"{side.name} ({own['version'].split()[1]})",
                own["steps_per_second"],
                own["images_per_second"],
                f"{100 * own['share_of_matmul']:.0f}%",
                f"{100 * own['share_of_copy']:.0f}%",
                f"{memory / 2**20:,.0f}",
                f"{own['first_step_seconds']:.1f}" + ("" if cold is None else f" / {cold:.1f}"),
                f"{own['compile_seconds']:.1f}",
            ]
        )
    columns = ("", "steps/s", "images/s", "of matmul", "of copy", "MiB")
    show(title, (*columns, "first step s" + (" / cold" if COLD.value else ""), "compile s"), rows)
    if len(sides) > 1:
        against = result["step_time_over_best_peer"]
        print(f"step time over {against['peer']}: {against['ratio']}", end="")
        print("" if difference is None else f"; the first losses differ by {difference:.1e}")


def main() -> None:
    """Compares all nets."""
    write(JSON.value, [compare(net) for net in MODELS.value])


if __name__ == "__main__":
    cli.run(main, trains=False)
