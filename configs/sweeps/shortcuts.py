"""Shortcut options A, B and C of He15 (arXiv 1512.03385), section 4.1, at 20 and 56 layers.

flaxres sweep --sweep=configs/sweeps/shortcuts.py --workdir=runs/shortcuts
"""

from typing import Any

from flaxres.experiments.sweeps import grid

# Option A is the default and has no suffix.
MODELS = [f"resnet-{depth}{option}" for depth in (20, 56) for option in ("", "-B", "-C")]
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py") -> list[dict[str, Any]]:
    """Returns the runs of every model with every seed."""
    return grid(config, {model: (model, {}) for model in MODELS}, SEEDS)
