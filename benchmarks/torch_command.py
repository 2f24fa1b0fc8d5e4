"""Command of the worker that runs a model in PyTorch, and a check for PyTorch."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from flaxres.errors import ConfigError

HAS_TORCH = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"


def check_torch(python: str) -> None:
    """Checks that PyTorch is installed, without importing it.

    Args:
      python: Python interpreter.

    Raises:
      ConfigError: the interpreter does not have PyTorch, or does not start.
    """
    try:
        found = subprocess.run([python, "-c", HAS_TORCH]).returncode == 0
    except OSError as error:
        raise ConfigError(f"--torch_python={python} cannot be started ({error.strerror})") from None
    if not found:
        raise ConfigError(
            f"{python} does not have PyTorch; run pip install -r requirements-benchmarks.txt, or "
            "name another interpreter with --torch_python"
        )


def torch_command(python: str, model: str, **options: Any) -> list[str]:
    """Returns the command of `benchmarks.torch_worker` for a model.

    Args:
      python: Python interpreter that has PyTorch.
      model: name of the model.
      **options: further options of the worker.

    Raises:
      ConfigError: the PyTorch implementation does not have this model.
    """
    family, _, rest = model.partition("-")
    depth, _, option = rest.partition("-")
    if family not in ("plain", "resnet") or not depth.isdigit() or option not in ("", "A"):
        raise ConfigError(
            f"the PyTorch models are plain-DEPTH and resnet-DEPTH, got {model}; use --against=none"
        )
    options |= {"depth": int(depth), "plain": family == "plain"}
    return [python, "-m", "benchmarks.torch_worker", json.dumps(options)]
