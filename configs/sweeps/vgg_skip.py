"""VGG-13 with and without shortcuts around its last two convolutions.

python -m experiments.sweep --sweep=configs/sweeps/vgg_skip.py --workdir=runs/vgg_skip

VGG needs images of 32 pixels, to which the digits are enlarged.
"""

from experiments.plan import grid

NETS = ("vgg-13", "vgg-13-skip")
SEEDS = range(3)
PIXELS = 32


def get_sweep(config: str = "configs/digits.py"):
    """Every net with every seed."""
    size = {"dataset.image_size": PIXELS}
    return grid(config, {net: (net, size) for net in NETS}, SEEDS)
