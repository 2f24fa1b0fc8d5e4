"""Learning rates around the paper's 0.1, for a plain and a residual model of 56 layers.

flaxres sweep --sweep=configs/sweeps/learning_rates.py --workdir=runs/learning_rates
"""

from typing import Any

from flaxres.experiments.sweeps import grid

MODELS = ("plain-56", "resnet-56")
LEARNING_RATES = (0.01, 0.03, 0.1, 0.3)
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py") -> list[dict[str, Any]]:
    """Returns the runs of every model with every learning rate and seed."""
    variants = {
        f"{model}-lr{learning_rate}": (model, {"learning_rate": learning_rate})
        for model in MODELS
        for learning_rate in LEARNING_RATES
    }
    return grid(config, variants, SEEDS)
