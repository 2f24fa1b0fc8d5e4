"""Plain, residual and dense models with about the same number of parameters.

flaxres sweep --sweep=configs/sweeps/connections.py --workdir=runs/connections

On CIFAR's images, DenseNet-BC of 100 layers has 0.77M parameters; residual models of 50 and 56
layers have 0.76M and 0.85M.
"""

from typing import Any

from flaxres.experiments.sweeps import grid

MODELS = ("plain-50", "resnet-50", "preact-50", "densenet-bc-100-12")
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py") -> list[dict[str, Any]]:
    """Returns the runs of every model with every seed."""
    return grid(config, {model: (model, {}) for model in MODELS}, SEEDS)
