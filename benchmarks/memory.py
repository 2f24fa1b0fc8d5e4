"""Peak memory of training: flaxres with and without rematerialization and scan, and PyTorch.

python -m benchmarks.memory --models=resnet-110,resnet-1202 --batch_size=128 --against=torch

Each configuration trains for some seconds on random images in a process of its own. Its memory is
the peak of the whole process, including compilation and libraries. On an accelerator, the peak of
device memory is shown too. PyTorch runs eagerly and compiled, and flaxres is compared with the
smaller of the two. PyTorch must be installed (`pip install -r requirements-benchmarks.txt`), or
--torch_python must name an interpreter that has it.

A second table shows the parts of flaxres's memory: the interpreter with its libraries, the images
on the host and on the device, the train state, XLA's temporary arrays (activations and gradients of
a step), and the rest: compiled programs, and what the allocator keeps. If the peak was before the
first step, during compilation, the temporary arrays came later and the rest can be negative.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from benchmarks.process import Worker
from benchmarks.report import print_table, write_json
from benchmarks.torch_cache import torch_environment
from benchmarks.torch_command import torch_command
from flaxres import cli

MODELS = flags.DEFINE_list(
    "models",
    ["resnet-110"],
    "Model names, such as plain-20, resnet-20, resnet-18 or wrn-16-4.",
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images per step.", lower_bound=1)
REMAT = flags.DEFINE_list("remat", ["false", "true"], "Values of model.remat to measure.")
SCAN = flags.DEFINE_list("scan", ["false"], "Values of model.scan to measure.")
AGAINST = flags.DEFINE_enum(
    "against", "torch", ["torch", "none"], "Framework to compare with: 'torch' or 'none'."
)
MODES = flags.DEFINE_list(
    "modes", ["eager", "compiled"], "Modes of PyTorch to measure: eager, compiled."
)
TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", sys.executable, "Python interpreter that has PyTorch (default: this one)."
)
SECONDS = flags.DEFINE_float(
    "seconds", 10.0, "Seconds of steps to run after the first step.", lower_bound=0
)
JSON = flags.DEFINE_string(
    "json", None, "File for the JSON result, e.g. memory.json (default: print it)."
)

IMAGE, IMAGES = (32, 32, 3), 5_000


def worker_commands(model: str) -> dict[str, list[str]]:
    """Returns the command of each worker for a model, by name of the configuration.

    Raises:
      ConfigError: the PyTorch implementation does not have this model.
    """
    image = ",".join(map(str, IMAGE))
    commands = {
        f"flaxres, remat {remat}, scan {scan}": [
            *(sys.executable, "-m", "benchmarks.flaxres_worker"),
            *(f"--config=configs/cifar10.py:{model}", f"--config.batch_size={BATCH_SIZE.value}"),
            *(f"--config.model.remat={remat}", f"--config.model.scan={scan}"),
            *(f"--image={image}", f"--images={IMAGES}"),
        ]
        for remat, scan in itertools.product(REMAT.value, SCAN.value)
    }
    if AGAINST.value == "none":
        return commands
    for mode in MODES.value:
        commands[f"torch {mode}"] = torch_command(
            TORCH_PYTHON.value,
            model,
            mode=mode,
            dtype="float32",
            batch_size=BATCH_SIZE.value,
            image=IMAGE,
            images=IMAGES,
            augment=True,
        )
    return commands


def measure(command: Sequence[str]) -> dict[str, Any]:
    """Trains in a worker process and measures memory and time.

    Returns:
      'host' and 'device', peak memory in bytes; 'step', 'first_step' and 'compile', in seconds. Of
      flaxres also 'start', the peak before the first step, and 'parts', the bytes of each part.

    Raises:
      RuntimeError: the worker failed; has the last line of its output.
    """
    worker = Worker(command, torch_environment())
    timed = worker.ask(steps={"seconds": SECONDS.value})
    memory = worker.ask(memory={})
    worker.close()
    first_step = worker.ready["first_step"]
    step, compiled = timed["seconds"] / timed["steps"], worker.ready["compile"]
    return {**memory, "step": step, "first_step": first_step, "compile": compiled}


def compare(model: str) -> dict[str, Any]:
    """Measures all configurations of a model, prints a table and returns the results."""
    results = {}
    for name, command in worker_commands(model).items():
        try:
            results[name] = measure(command)
        except (RuntimeError, OSError) as error:
            print(f"{name} failed: {error}", file=sys.stderr)
    columns = ("", "host GiB", "device GiB", "s to compile", "s to first step", "s/step")
    rows = [
        (
            name,
            f"{result['host'] / 2**30:.2f}",
            f"{result['device'] / 2**30:.2f}" if result["device"] else "",
            f"{result['compile']:.1f}",
            f"{result['first_step']:.1f}",
            f"{result['step']:.2f}",
        )
        for name, result in results.items()
    ]
    print_table(f"{model}, batch size {BATCH_SIZE.value}", columns, rows)
    print_parts(results)
    flaxres = [result["host"] for name, result in results.items() if name.startswith("flaxres")]
    torch = [result["host"] for name, result in results.items() if name.startswith("torch")]
    ratio = round(min(flaxres) / min(torch), 3) if flaxres and torch else None
    return {"net": model, "workers": results, "least_host_memory_over_torch": ratio}


def print_parts(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints the parts of the memory of each configuration that reports them.

    Args:
      results: what `measure` returned, by name of the configuration.
    """
    measured = {name: result for name, result in results.items() if "parts" in result}
    rows = []
    for name, result in measured.items():
        parts = [*result["parts"].values()]
        sizes = (*parts, result["host"] - sum(parts), result["host"], result["start"])
        rows.append((name, *(f"{size / 2**20:,.0f}" for size in sizes)))
    if rows:
        columns = [*next(iter(measured.values()))["parts"], "rest", "peak", "peak before step 1"]
        print_table("Memory of the host in MiB", ("", *columns), rows)


def main() -> None:
    """Compares all models, prints tables and writes the results."""
    cli.check_models(MODELS.value)
    results = [compare(model) for model in MODELS.value]
    write_json(JSON.value, {"batch_size": BATCH_SIZE.value, "nets": results})


if __name__ == "__main__":
    cli.run(main, trains=False)
