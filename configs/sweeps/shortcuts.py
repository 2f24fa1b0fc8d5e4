"""Shortcut options A, B and C of He15 (arXiv 1512.03385), section 4.1, on two depths.

python -m experiments.sweep --sweep=configs/sweeps/shortcuts.py --workdir=runs/shortcuts
"""

from experiments.sweeps import grid

NETS = [f"resnet-{depth}{option}" for depth in (20, 56) for option in ("", "-B", "-C")]
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py"):
    """Every net with every seed; option A has no letter."""
    return grid(config, {net: (net, {}) for net in NETS}, SEEDS)
