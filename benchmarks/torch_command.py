"""Command of the worker that runs a model in PyTorch."""

from __future__ import annotations

import json
from typing import Any

from flaxres.errors import ConfigError


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
