"""Time from the start of a program to its first train step, compared with PyTorch.

python -m benchmarks.startup --config=configs/digits.py:resnet-20 --rounds=5 --json=startup.json

Each round starts the command line of flaxres twice: with an empty cache, so that it builds the
kernels and compiles all programs ('cold'), and with a cache that an earlier start has filled
('warm'). The time ends when metrics.jsonl has the record of the first step. PyTorch runs the same
step eagerly, on random images of the same size; its time ends after the first step. PyTorch must be
installed (`pip install -r requirements-benchmarks.txt`), or --torch_python must name an interpreter
that has it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from benchmarks.process import Worker
from benchmarks.report import Spread, print_table, write_json
from benchmarks.torch_cache import torch_environment
from benchmarks.torch_command import check_torch, torch_command
from flaxres import cli
from flaxres.errors import ConfigError, UserError

ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "Number of rounds; each measures every start once.", lower_bound=1
)
AGAINST = flags.DEFINE_enum(
    "against", "torch", ["torch", "none"], "Framework to compare with: 'torch' or 'none'."
)
TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", sys.executable, "Python interpreter that has PyTorch (default: this one)."
)
JSON = flags.DEFINE_string(
    "json", None, "File for the JSON result, e.g. startup.json (default: print it)."
)
cli.define_config("configs/digits.py:resnet-20")

POLL_SECONDS = 0.002  # between two looks at metrics.jsonl


def flaxres_seconds(command: list[str], cache: str) -> float:
    """Starts a program and ends it after its first record.

    Args:
      command: a training without --workdir, which logs every step.
      cache: directory for FLAXRES_CACHE.

    Returns:
      Seconds from the start to the first record.

    Raises:
      UserError: the program ends before its first record.
    """
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory,
        open(Path(directory) / "errors", "w+b") as errors,
    ):
        metrics = Path(directory) / "run" / "metrics.jsonl"
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, f"--workdir={metrics.parent}"],
            env={**os.environ, "FLAXRES_CACHE": cache},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # its decode workers end with it
        )
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                if process.poll() is not None:
                    errors.seek(0)
                    lines = errors.read().decode(errors="replace").strip().splitlines()
                    raise UserError(lines[-1] if lines else f"exit code {process.returncode}")
                time.sleep(POLL_SECONDS)
            return time.perf_counter() - start
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def peer_command(config: ConfigDict) -> list[str]:
    """Returns the command of the PyTorch worker for the model and the images of a config.

    Raises:
      ConfigError: the PyTorch implementation does not have this model.
      DatasetError: the data set cannot be read.
    """
    from flaxres.config import model_name
    from flaxres.data import dataset_shape

    if config.model.stem != "cifar":
        raise ConfigError(
            f"the PyTorch models have the stem 'cifar', got {config.model.stem!r}; use "
            "--against=none"
        )
    image_shape, _ = dataset_shape(config.dataset)
    return torch_command(
        TORCH_PYTHON.value,
        model_name(config.model),
        mode="eager",
        batch_size=config.batch_size,
        image=image_shape,
        images=5_000,
        widths=config.model.widths,
        dtype=config.dtype,
        augment=bool(config.augment.pad),
    )


def torch_seconds(command: list[str]) -> float:
    """Returns the seconds from the start of PyTorch to the end of its first step.

    Raises:
      UserError: PyTorch fails.
    """
    try:
        worker = Worker(command, torch_environment())
    except RuntimeError as error:
        raise UserError(f"PyTorch: {error}") from None
    worker.close()
    return float(worker.ready["first_step"])


def main() -> None:
    """Runs the rounds, prints a table and writes the results."""
    config = cli.get_config()
    given = [argument for argument in sys.argv[1:] if argument.lstrip("-").startswith("config")]
    command = [sys.executable, "-m", "flaxres.main", *given, "--config.log_every=1"]
    peer = None
    if AGAINST.value == "torch":
        check_torch(TORCH_PYTHON.value)
        peer = peer_command(config)
    seconds: dict[str, list[float]] = {"flaxres cold": [], "flaxres warm": []}
    with tempfile.TemporaryDirectory() as filled:
        flaxres_seconds(command, filled)
        for _ in range(ROUNDS.value):
            with tempfile.TemporaryDirectory() as empty:
                seconds["flaxres cold"].append(flaxres_seconds(command, empty))
            seconds["flaxres warm"].append(flaxres_seconds(command, filled))
            if peer is not None:
                seconds.setdefault("torch eager", []).append(torch_seconds(peer))
    spreads = {name: Spread.from_values(values) for name, values in seconds.items()}
    title = f"Seconds to the first step, {' '.join(given)}"
    print_table(title, ("", "s"), [[name, spread] for name, spread in spreads.items()])
    write_json(JSON.value, {"config": given, "seconds": spreads})


if __name__ == "__main__":
    cli.run(main, trains=False)
