"""Batch, layer, group, instance and no norm, in a plain and a residual model of 20 layers.

flaxres sweep --sweep=configs/sweeps/norms.py --workdir=runs/norms

Models without a norm may diverge, which is a result too.
"""

from typing import Any

from flaxres.experiments.sweeps import grid

MODELS = ("plain-20", "resnet-20")
NORMS = ("batch", "layer", "group", "instance", "none")
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py") -> list[dict[str, Any]]:
    """Returns the runs of every model with every norm and seed."""
    variants = {
        f"{model}-{norm}": (model, {"model.norm": norm}) for model in MODELS for norm in NORMS
    }
    return grid(config, variants, SEEDS)
