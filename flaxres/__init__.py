"""flaxres: plain and residual networks in JAX/Flax, and the degradation of plain networks.

The functions below are imported when they are first used, so `import flaxres` takes no time and
imports no JAX. `docs/python.md` describes them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flaxres.api.configs import get_config as get_config
    from flaxres.api.cpu_settings import tune as tune
    from flaxres.api.models import create_model as create_model
    from flaxres.api.trained import Predictions as Predictions
    from flaxres.api.trained import TrainedModel as TrainedModel
    from flaxres.api.trained import load as load
    from flaxres.api.training import TrainResult as TrainResult
    from flaxres.api.training import load_result as load_result
    from flaxres.api.training import train as train

__version__ = "0.1.0"

# Public names, and the modules in which they are defined.
_MODULES = {
    "Predictions": "flaxres.api.trained",
    "TrainResult": "flaxres.api.training",
    "TrainedModel": "flaxres.api.trained",
    "create_model": "flaxres.api.models",
    "get_config": "flaxres.api.configs",
    "load": "flaxres.api.trained",
    "load_result": "flaxres.api.training",
    "train": "flaxres.api.training",
    "tune": "flaxres.api.cpu_settings",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'flaxres' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
