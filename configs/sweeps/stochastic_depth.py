"""Stochastic depth over depth: residual models whose blocks are dropped at random, and as they are.

flaxres sweep --sweep=configs/sweeps/stochastic_depth.py --workdir=runs/stochastic_depth

The last block is dropped in half of the steps and earlier blocks less often: Huang et al. 2016
(arXiv 1603.09382), section 4.
"""

from typing import Any

from flaxres.experiments.sweeps import grid

DEPTHS = (20, 56, 110)
DROP_PATH = 0.5
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py") -> list[dict[str, Any]]:
    """Returns the runs of every depth and seed, with and without stochastic depth."""
    variants: dict[str, tuple[str, dict[str, Any]]] = {}
    for depth in DEPTHS:
        model = f"resnet-{depth}"
        variants[model] = (model, {})
        variants[f"{model}-stochastic-depth"] = (model, {"model.drop_path": DROP_PATH})
    return grid(config, variants, SEEDS)
