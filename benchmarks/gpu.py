"""All benchmarks for a GPU in one run of at most ten minutes.

python -m benchmarks.gpu --out=DIRECTORY

Runs the commands below in order of importance and skips those that do not fit in the time. The
output and JSON of each command are written to the directory as soon as it ends.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from absl import flags

from flaxres import cli

OUT = flags.DEFINE_string("out", "runs/gpu", "Directory for the results.")
MINUTES = flags.DEFINE_float(
    "minutes", 9.5, "Time limit in minutes; the command that is then running is stopped."
)
TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", sys.executable, "Python interpreter that has PyTorch (default: this one)."
)

STEP = ("benchmarks.train_step", "--dtypes=bfloat16", "--rounds=5", "--seconds=2", "--nocold")
CIFAR = "--config=configs/cifar10.py"
COMMANDS = {
    "step_128": (*STEP, "--models=resnet-20,resnet-56"),
    "kernels_20": ("benchmarks.kernels", f"{CIFAR}:resnet-20", "--config.dtype=bfloat16"),
    "step_1024": (*STEP, "--models=resnet-20,resnet-56", "--batch_size=1024"),
    "kernels_56": ("benchmarks.kernels", f"{CIFAR}:resnet-56", "--config.dtype=bfloat16"),
    "step_float32": (
        *(*STEP[:1], "--dtypes=float32", "--rounds=3", "--seconds=2", "--nocold"),
        "--models=resnet-20",
    ),
    "parts": ("benchmarks.parts", f"{CIFAR}:resnet-20", "--config.dtype=bfloat16", "--steps=500"),
    "depth": (
        *("benchmarks.scaling", "--over=depth", "--values=20,56,110", "--models=resnet"),
        *("--rounds=3", "--seconds=1", "--fields=dtype=bfloat16"),
    ),
    "replicas": (
        *("benchmarks.replicas", f"{CIFAR}:resnet-20", "--config.dtype=bfloat16"),
        *("--config.dataset.name=digits", "--replicas=4", "--rounds=3"),
    ),
}


def main() -> None:
    """Runs the commands until the time limit."""
    out, deadline = Path(OUT.value), time.monotonic() + 60 * MINUTES.value
    out.mkdir(parents=True, exist_ok=True)
    for name, (module, *arguments) in COMMANDS.items():
        if module == "benchmarks.train_step":
            arguments.append(f"--torch_python={TORCH_PYTHON.value}")
        if module != "benchmarks.replicas":
            arguments.append(f"--json={out / name}.json")
        print(f"== {name}: python -m {module} {' '.join(arguments)}", flush=True)
        try:
            result = subprocess.run(
                [sys.executable, "-m", module, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=deadline - time.monotonic(),
                check=False,
            )
        except (subprocess.TimeoutExpired, ValueError):
            print(f"Stopped at the time limit of {MINUTES.value:g} minutes.", flush=True)
            return
        (out / f"{name}.txt").write_text(result.stdout)
        print(result.stdout[-4_000:], flush=True)


if __name__ == "__main__":
    cli.run(main, trains=False)
