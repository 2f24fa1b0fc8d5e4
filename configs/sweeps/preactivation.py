"""ReLU before or after the addition, at 110 and 164 layers: He16 (arXiv 1603.05027), table 2.

flaxres sweep --sweep=configs/sweeps/preactivation.py --workdir=runs/preactivation

The models of 164 layers have bottlenecks.
"""

from typing import Any

from flaxres.experiments.sweeps import grid

MODELS = ("resnet-110", "preact-110", "resnet-164-bottleneck", "preact-164")
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py") -> list[dict[str, Any]]:
    """Returns the runs of every model with every seed."""
    return grid(config, {model: (model, {}) for model in MODELS}, SEEDS)
