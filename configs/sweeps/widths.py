"""Half, once and twice the paper's number of filters, at 20 layers.

flaxres sweep --sweep=configs/sweeps/widths.py --workdir=runs/widths
"""

from typing import Any

from flaxres.experiments.sweeps import grid

MODELS = ("plain-20", "resnet-20")
WIDTHS = ((8, 16, 32), (16, 32, 64), (32, 64, 128))
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py") -> list[dict[str, Any]]:
    """Returns the runs of every model with every width and seed."""
    variants = {
        f"{model}-width{widths[0]}": (model, {"model.widths": widths})
        for model in MODELS
        for widths in WIDTHS
    }
    return grid(config, variants, SEEDS)
