"""flaxres: plain and residual networks in JAX/Flax, and the degradation of plain networks.

The functions below are imported when they are first used, so `import flaxres` takes no time and
imports no JAX. `docs/python.md` describes them.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flaxres import errors as errors
    from flaxres.api.analyses import AnalysisResult as AnalysisResult
    from flaxres.api.analyses import analyze as analyze
    from flaxres.api.configs import get_config as get_config
    from flaxres.api.cpu_settings import tune as tune
    from flaxres.api.loading import load as load
    from flaxres.api.loading import load_pretrained as load_pretrained
    from flaxres.api.models import create_model as create_model
    from flaxres.api.sweeps import load_metrics as load_metrics
    from flaxres.api.sweeps import load_results as load_results
    from flaxres.api.sweeps import run_sweep as run_sweep
    from flaxres.api.sweeps import write_report as write_report
    from flaxres.api.trained import Predictions as Predictions
    from flaxres.api.trained import TrainedModel as TrainedModel
    from flaxres.api.training import TrainResult as TrainResult
    from flaxres.api.training import load_run as load_run
    from flaxres.api.training import train as train
    from flaxres.experiments.sweeps.plan import grid as grid

__all__ = [  # noqa: RUF022 (in the order of the documentation)
    "create_model",
    "get_config",
    "train",
    "TrainResult",
    "load_run",
    "load",
    "load_pretrained",
    "TrainedModel",
    "Predictions",
    "grid",
    "run_sweep",
    "load_results",
    "load_metrics",
    "analyze",
    "AnalysisResult",
    "write_report",
    "tune",
]
__version__ = "0.1.0"

# Public names, and the modules in which they are defined.
_MODULES = {
    "AnalysisResult": "flaxres.api.analyses",
    "Predictions": "flaxres.api.trained",
    "TrainResult": "flaxres.api.training",
    "TrainedModel": "flaxres.api.trained",
    "analyze": "flaxres.api.analyses",
    "create_model": "flaxres.api.models",
    "get_config": "flaxres.api.configs",
    "grid": "flaxres.experiments.sweeps.plan",
    "load": "flaxres.api.loading",
    "load_metrics": "flaxres.api.sweeps",
    "load_pretrained": "flaxres.api.loading",
    "load_results": "flaxres.api.sweeps",
    "load_run": "flaxres.api.training",
    "run_sweep": "flaxres.api.sweeps",
    "train": "flaxres.api.training",
    "tune": "flaxres.api.cpu_settings",
    "write_report": "flaxres.api.sweeps",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used."""
    if name == "errors":
        return importlib.import_module("flaxres.errors")
    if name not in _MODULES:
        message = f"module 'flaxres' has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=sys.modules[__name__])  # for suggestions
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, "errors"})
