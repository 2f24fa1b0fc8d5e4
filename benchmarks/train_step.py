"""Speed of the train step, compared with PyTorch.

python -m benchmarks.train_step --models=resnet-20,resnet-56,plain-56 --against=torch

Each implementation runs whole train steps, including the data path, on random images in a process
of its own. Every round measures all of them, so that other load on the machine affects all alike.
PyTorch runs in every mode that its users would try, and the ratio is that to the fastest mode. From
the same weights and images, both must have the same losses. PyTorch must be installed (`pip install
torch`), or --torch_python must name an interpreter that has it.

The shares of matmul and copy compare a step with the speed of a large matrix product and a large
copy, measured in the same rounds. They count the fewest operations and bytes of a step: three times
the multiply-adds of the forward pass, and ten passes over the outputs of the convolutions.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from benchmarks.process import Worker
from benchmarks.report import Spread, print_table, write_json
from benchmarks.torch_cache import torch_environment
from flaxres import cli
from flaxres.cpu import runs_on_cpu
from flaxres.cpu.settings import MALLOC_TUNABLES
from flaxres.errors import ConfigError, UserError

MODELS = flags.DEFINE_list(
    "models",
    ["resnet-20", "resnet-56", "plain-56"],
    "Model names: plain networks, and residual networks with option A, such as plain-20.",
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images per step.", lower_bound=1)
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 32, "Height and width of the images, in pixels.", lower_bound=1
)
CHANNELS = flags.DEFINE_integer(
    "channels", 3, "Channels of the images; the digits have 1.", lower_bound=1
)
AUGMENT = flags.DEFINE_bool("augment", True, "Use random crops and flips.")
DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "Compute dtype, such as bfloat16."
)
AGAINST = flags.DEFINE_enum(
    "against", "torch", ["torch", "none"], "Framework to compare with: 'torch' or 'none'."
)
MODES = flags.DEFINE_list(
    "modes", None, "Modes of PyTorch, such as eager,compiled (default: all that the device has)."
)
TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", sys.executable, "Python interpreter that has PyTorch (default: this one)."
)
ROUNDS = flags.DEFINE_integer(
    "rounds", 7, "Number of rounds; each measures every process.", lower_bound=1
)
SECONDS = flags.DEFINE_float(
    "seconds", 3.0, "Seconds of steps per round and process.", lower_bound=0
)
CHECK = flags.DEFINE_bool("check", True, "Compare the losses of the first steps.")
COLD = flags.DEFINE_bool("cold", True, "Also time a start with empty compilation caches.")
JSON = flags.DEFINE_string("json", None, "File for the result as JSON, such as train_step.json.")

# Passes over the output of each convolution, forward and backward, with batch norm and ReLU.
PASSES = 10
# Relative tolerance of the first loss, and of the losses after updates: rounding errors grow in
# deep plain networks.
TOLERANCES = {"float32": (1e-3, 3e-2), "bfloat16": (3e-2, 1e-1)}


@dataclasses.dataclass
class Implementation:
    """One of the implementations to compare.

    Attributes:
      name: 'flaxres', or 'torch' and its mode.
      worker: the process that runs it.
      cold_start: seconds to the first step with empty caches; None if not measured.
      step_seconds: seconds per step, one entry for each round.
    """

    name: str
    worker: Worker
    cold_start: float | None = None
    step_seconds: list[float] = dataclasses.field(default_factory=list)


def flaxres_command(model: str, **fields: Any) -> list[str]:
    """Returns the command of the flaxres worker.

    Args:
      model: model name.
      fields: further config fields.
    """
    image = f"{IMAGE_SIZE.value},{IMAGE_SIZE.value},{CHANNELS.value}"
    fields = {"batch_size": BATCH_SIZE.value, "dtype": DTYPE.value} | fields
    if not AUGMENT.value:
        fields |= {"augment.pad": 0, "augment.flip": False}
    return [
        *(sys.executable, "-m", "benchmarks.flaxres_worker"),
        f"--config=configs/cifar10.py:{model}",
        *(f"--config.{field}={value}" for field, value in fields.items()),
        *(f"--image={image}", f"--images={max(5_000, fields['batch_size'])}"),
    ]


def torch_command(model: str, mode: str) -> list[str]:
    """Returns the command of the PyTorch worker.

    Raises:
      ConfigError: the PyTorch implementation does not have this model.
    """
    family, depth, *option = model.split("-")
    if family not in ("plain", "resnet") or option not in ([], ["A"]):
        raise ConfigError(f"the PyTorch models are plain-DEPTH and resnet-DEPTH, got {model}")
    options = {
        "depth": int(depth),
        "plain": family == "plain",
        "mode": mode,
        "batch_size": BATCH_SIZE.value,
        "image": [IMAGE_SIZE.value, IMAGE_SIZE.value, CHANNELS.value],
        "images": max(5_000, BATCH_SIZE.value),
        "widths": [16, 32, 64],
        "dtype": DTYPE.value,
        "augment": AUGMENT.value,
    }
    return [TORCH_PYTHON.value, "-m", "benchmarks.torch_worker", json.dumps(options)]


def start(name: str, command: Sequence[str], environment: Mapping[str, str]) -> Implementation:
    """Starts a worker; with --cold, first times one that has empty caches.

    Raises:
      UserError: the worker fails.
    """
    try:
        cold_start = None
        if COLD.value:
            with tempfile.TemporaryDirectory() as empty:
                caches = {"FLAXRES_CACHE": empty, "TORCHINDUCTOR_CACHE_DIR": empty}
                worker = Worker(command, {**environment, **caches})
                worker.close()
                cold_start = worker.ready["first_step"]
        return Implementation(name, Worker(command, environment), cold_start)
    except RuntimeError as error:
        raise UserError(f"{name}: {error}") from None


def start_all(model: str) -> list[Implementation]:
    """Starts flaxres, then PyTorch in each mode; modes that fail are skipped.

    Raises:
      UserError: flaxres fails, or PyTorch fails in all modes.
    """
    implementations = [start("flaxres", flaxres_command(model), {})]
    if AGAINST.value == "none":
        return implementations
    on_cpu = runs_on_cpu()
    environment = torch_environment()
    if on_cpu and sys.platform == "linux":
        environment["GLIBC_TUNABLES"] = MALLOC_TUNABLES  # as flaxres sets them for itself
    modes = ("eager", "compiled") if on_cpu else ("compiled", "graph-eager", "graph-compiled")
    for mode in MODES.value or modes:
        try:
            implementations.append(start(f"torch {mode}", torch_command(model, mode), environment))
        except UserError as error:
            print(f"Skipped {error}", file=sys.stderr)
    if len(implementations) == 1:
        raise UserError(
            f"PyTorch failed in every mode (see above) with {TORCH_PYTHON.value}; pip install "
            "torch there, or name another interpreter with --torch_python"
        )
    return implementations


def compare_losses(implementations: Sequence[Implementation]) -> float:
    """Checks that all implementations have the losses of the first one.

    Returns:
      The largest relative difference between the first losses.

    Raises:
      UserError: losses differ by more than the tolerance, so the models are not the same.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "weights.npz")
        checked = implementations[0].worker.ask(check={"path": path})
        losses, learning_rate = checked["losses"], checked["learning_rate"]
        request = {"path": path, "steps": len(losses), "learning_rate": learning_rate}
        max_difference = 0.0
        for peer in implementations[1:]:
            peer_losses = peer.worker.ask(check=request)["losses"]
            differences = np.abs(np.subtract(peer_losses, losses)) / np.abs(losses)
            first, later = TOLERANCES[DTYPE.value]
            if not (differences[0] < first and np.all(differences < later)):
                raise UserError(f"losses differ: flaxres {losses}, {peer.name} {peer_losses}")
            max_difference = max(max_difference, float(differences[0]))
    return max_difference


def compare(model: str) -> dict[str, Any]:
    """Runs the rounds for one model, prints a table and returns the results."""
    implementations = start_all(model)
    ready = implementations[0].worker.ready
    for implementation in implementations:  # first, so that nothing else counts as memory
        implementation.worker.ask(steps={"seconds": SECONDS.value})
    memory = {i.name: i.worker.ask(memory={}) for i in implementations}
    difference = compare_losses(implementations) if CHECK.value and implementations[1:] else None
    size, copied = (4_096, 2**28) if ready["platform"] == "cpu" else (8_192, 2**32)
    request = {"dtype": DTYPE.value, "size": size, "copied": copied}
    ceilings = []
    for _ in range(ROUNDS.value):
        for implementation in implementations:
            timed = implementation.worker.ask(steps={"seconds": SECONDS.value})
            implementation.step_seconds.append(timed["seconds"] / timed["steps"])
        ceilings += [i.worker.ask(ceiling=request) for i in implementations[:2]]
    ceiling = {name: max(c[name] for c in ceilings) for name in ("flops", "bytes")}
    operations = 3 * 2 * ready["macs"] * BATCH_SIZE.value
    bytes_per_value = 2 if DTYPE.value == "bfloat16" else 4
    moved_bytes = PASSES * ready["conv_outputs"] * BATCH_SIZE.value * bytes_per_value
    result: dict[str, Any] = {}
    for implementation in implementations:
        worker, step_seconds = implementation.worker, implementation.step_seconds
        step = Spread.from_values(step_seconds)
        result[implementation.name] = {
            "step_seconds": step,
            "steps_per_second": Spread.from_values([1 / s for s in step_seconds]),
            "images_per_second": Spread.from_values([BATCH_SIZE.value / s for s in step_seconds]),
            "share_of_matmul": operations / ceiling["flops"] / step.median,
            "share_of_copy": moved_bytes / ceiling["bytes"] / step.median,
            "memory_bytes": memory[implementation.name],
            "first_step_seconds": worker.ready["first_step"],
            "first_step_cold_seconds": implementation.cold_start,
            "compile_seconds": worker.ready["compile"],
            "version": worker.ready["version"],
        }
        worker.close()
    if len(implementations) > 1:
        best_peer = min(implementations[1:], key=lambda peer: np.median(peer.step_seconds))
        ratios = np.divide(implementations[0].step_seconds, best_peer.step_seconds)
        ratio = Spread.from_values(ratios)
        result["step_time_over_best_peer"] = {"peer": best_peer.name, "ratio": ratio}
    print_results(model, ready["device"], implementations, result, difference)
    return {"net": model, "device": ready["device"], "ceiling": ceiling, **result}


def print_results(
    model: str,
    device: str,
    implementations: Sequence[Implementation],
    result: Mapping[str, Any],
    difference: float | None,
) -> None:
    """Prints the table of one model.

    Args:
      model: model name.
      device: name of the device.
      implementations: the implementations, flaxres first.
      result: result of `compare`.
      difference: largest relative difference of the first losses; None if not checked.
    """
    title = (
        f"{model}, batch size {BATCH_SIZE.value}, "
        f"{IMAGE_SIZE.value}x{IMAGE_SIZE.value}x{CHANNELS.value}, {DTYPE.value}, {device}"
    )
    rows = []
    for implementation in implementations:
        values = result[implementation.name]
        cold = values["first_step_cold_seconds"]
        memory = values["memory_bytes"]["device"] or values["memory_bytes"]["host"]
        rows.append(
            [
                f"{implementation.name} ({values['version'].split()[1]})",
                values["steps_per_second"],
                values["images_per_second"],
                f"{100 * values['share_of_matmul']:.0f}%",
                f"{100 * values['share_of_copy']:.0f}%",
                f"{memory / 2**20:,.0f}",
                f"{values['first_step_seconds']:.1f}" + ("" if cold is None else f" / {cold:.1f}"),
                f"{values['compile_seconds']:.1f}",
            ]
        )
    first_step = "first step s" + (" / cold" if COLD.value else "")
    columns = ("", "steps/s", "images/s", "of matmul", "of copy", "MiB", first_step, "compile s")
    print_table(title, columns, rows)
    if len(implementations) > 1:
        comparison = result["step_time_over_best_peer"]
        text = f"Step time / {comparison['peer']}: {comparison['ratio']}."
        if difference is not None:
            text += f" The first losses differ by {difference:.1e}."
        print(text)


def main() -> None:
    """Compares all models and prints one JSON object."""
    cli.check_models(MODELS.value)
    write_json(JSON.value, [compare(model) for model in MODELS.value])


if __name__ == "__main__":
    cli.run(main, trains=False)
