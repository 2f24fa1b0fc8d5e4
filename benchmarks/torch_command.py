"""Command of the worker that runs a model in PyTorch, and a check for PyTorch."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from flaxres.config import default_config, set_model
from flaxres.errors import ConfigError

# Shortcut options of the PyTorch models, by family and number of stages.
SHORTCUTS = {
    ("plain", 3): "none",
    ("plain", 4): "none",
    ("resnet", 3): "A",
    ("resnet", 4): "B",
    ("wrn", 3): "B",
}
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
      **options: further options of the worker; `widths` are by default those of the model.

    Raises:
      ConfigError: the PyTorch implementation does not have this model.
    """
    fields = set_model(default_config(), model).model
    shortcut = SHORTCUTS.get((fields.name, len(fields.widths)))
    if shortcut != fields.shortcut or fields.block != "basic":
        raise ConfigError(
            "the PyTorch models are plain-DEPTH, resnet-DEPTH and wrn-DEPTH-FACTOR, got "
            f"{model}; use --against=none"
        )
    options = {"widths": fields.widths} | options
    options |= {"depth": fields.depth, "family": fields.name}
    return [python, "-m", "benchmarks.torch_worker", json.dumps(options)]
