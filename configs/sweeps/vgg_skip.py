"""VGG-13 with and without shortcuts around its last two convolutions.

python -m experiments.sweep --sweep=configs/sweeps/vgg_skip.py --workdir=runs/vgg_skip

VGG needs images of 32 pixels, to which the digits are enlarged. The rate is that of Simonyan and
Zisserman 2014 (arXiv 1409.1556), section 3.1.
"""

from experiments.sweeps import grid

NETS = ("vgg-13", "vgg-13-skip")
SEEDS = range(3)
PIXELS = 32
RATE = 0.01


def get_sweep(config: str = "configs/digits.py"):
    """Every net with every seed."""
    own = {"dataset.image_size": PIXELS, "learning_rate": RATE}
    return grid(config, {net: (net, own) for net in NETS}, SEEDS)
