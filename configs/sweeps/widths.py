"""Half, the same and twice the filters of the paper, at 20 layers.

python -m experiments.sweep --sweep=configs/sweeps/widths.py --workdir=runs/widths
"""

from experiments.sweeps import grid

NETS = ("plain-20", "resnet-20")
WIDTHS = ((8, 16, 32), (16, 32, 64), (32, 64, 128))
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py"):
    """Every net with all widths and seeds."""
    variants = {
        f"{net}-width{widths[0]}": (net, {"model.widths": widths})
        for net in NETS
        for widths in WIDTHS
    }
    return grid(config, variants, SEEDS)
