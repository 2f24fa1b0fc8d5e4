"""Memory of training: flaxres with and without rematerialisation and scan, and PyTorch.

python -m benchmarks.memory --models=resnet-110,resnet-1202 --batch_size=128 --against=torch

Each is a process of its own that trains for some seconds on random images; what counts is the most
memory that the process ever had, compilation and libraries included. On an accelerator its own
memory is shown too. PyTorch runs eagerly and compiled, and flaxres is compared with the less of
the two. `pip install torch` first, or name an interpreter that has it with --torch_python.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from benchmarks.process import Worker
from benchmarks.report import show, write
from flaxres import cli
from flaxres.errors import ConfigError

MODELS = flags.DEFINE_list("models", ["resnet-110"], "Plain, or with option A.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images of a step.")
REMAT = flags.DEFINE_list("remat", ["false", "true"], "Values of model.remat.")
SCAN = flags.DEFINE_list("scan", ["false"], "Values of model.scan.")
AGAINST = flags.DEFINE_enum("against", "torch", ["torch", "none"], "The peer.")
MODES = flags.DEFINE_list("modes", ["eager", "compiled"], "Of PyTorch.")
TORCH_PYTHON = flags.DEFINE_string("torch_python", sys.executable, "Python that has PyTorch.")
SECONDS = flags.DEFINE_float("seconds", 10.0, "Of steps, after the first.")
JSON = flags.DEFINE_string("json", None, "File for the result.")

IMAGE, IMAGES = (32, 32, 3), 5_000


def commands(net: str) -> dict[str, list[str]]:
    """What is measured for a net: the command of each worker, by name.

    Raises:
      ConfigError: the peer does not have this net.
    """
    image = ",".join(map(str, IMAGE))
    workers = {
        f"flaxres, remat {remat}, scan {scan}": [
            *(sys.executable, "-m", "benchmarks.flaxres_side"),
            *(f"--config=configs/cifar10.py:{net}", f"--config.batch_size={BATCH_SIZE.value}"),
            *(f"--config.model.remat={remat}", f"--config.model.scan={scan}"),
            *(f"--image={image}", f"--images={IMAGES}"),
        ]
        for remat, scan in itertools.product(REMAT.value, SCAN.value)
    }
    if AGAINST.value == "none":
        return workers
    name, depth, *option = net.split("-")
    if name not in ("plain", "resnet") or not depth.isdigit() or option not in ([], ["A"]):
        raise ConfigError(f"the peer has plain-DEPTH and resnet-DEPTH, got {net}")
    for mode in MODES.value:
        options = {
            **{"depth": int(depth), "plain": name == "plain", "mode": mode, "dtype": "float32"},
            **{"batch_size": BATCH_SIZE.value, "image": IMAGE, "images": IMAGES},
            **{"widths": (16, 32, 64), "augment": True},
        }
        command = [TORCH_PYTHON.value, "-m", "benchmarks.torch_side", json.dumps(options)]
        workers[f"torch {mode}"] = command
    return workers


def measure(command: Sequence[str]) -> dict[str, float]:
    """Trains in a process; its peaks of memory in bytes and its seconds of a step.

    Raises:
      RuntimeError: it fails; with its last line.
    """
    worker = Worker(command, {"PYTHONPATH": os.getcwd()})
    took = worker.ask(steps={"seconds": SECONDS.value})
    memory = worker.ask(memory={})
    worker.close()
    first = worker.ready["first_step"]
    step, compiled = took["seconds"] / took["steps"], worker.ready["compile"]
    return {**memory, "step": step, "first_step": first, "compile": compiled}


def compare(net: str) -> dict[str, Any]:
    """Measures every worker for one net and prints its table."""
    results = {}
    for name, command in commands(net).items():
        try:
            results[name] = measure(command)
        except (RuntimeError, OSError) as error:
            print(f"{name} did not run: {error}", file=sys.stderr)
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
    show(f"{net}, batches of {BATCH_SIZE.value}", columns, rows)
    ours = [result["host"] for name, result in results.items() if name.startswith("flaxres")]
    theirs = [result["host"] for name, result in results.items() if name.startswith("torch")]
    ratio = round(min(ours) / min(theirs), 3) if ours and theirs else None
    return {"net": net, "workers": results, "least_host_memory_over_torch": ratio}


def main() -> None:
    """Compares all nets and prints one JSON object."""
    nets = [compare(net) for net in MODELS.value]
    write(JSON.value, {"batch_size": BATCH_SIZE.value, "nets": nets})


if __name__ == "__main__":
    cli.run(main, trains=False)
