"""Degradation, He15 (arXiv 1512.03385), section 4.2: plain and residual models, 20 to 56 layers.

flaxres sweep --sweep=configs/sweeps/degradation.py --workdir=runs/sweep

With a config file after a colon, the sweep is the experiment of the paper (for accelerators):

flaxres sweep --sweep=configs/sweeps/degradation.py:configs/cifar10.py --workdir=X

Eight models with three seeds each. `make degradation` trains those with seed 0 on the digits.
"""

from typing import Any

from flaxres.experiments.sweeps import grid
from flaxres.experiments.sweeps.models import DEGRADATION_MODELS

MODELS = DEGRADATION_MODELS  # plain-20, resnet-20, ..., plain-56, resnet-56
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py") -> list[dict[str, Any]]:
    """Returns the runs of every model with every seed."""
    return grid(config, {model: (model, {}) for model in MODELS}, SEEDS)
