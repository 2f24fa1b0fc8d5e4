"""VGG-13 with and without shortcuts around its last two convolutions.

flaxres sweep --sweep=configs/sweeps/vgg_skip.py --workdir=runs/vgg_skip

VGG needs images of 32 pixels, so the digits are resized. The learning rate is that of Simonyan and
Zisserman 2014 (arXiv 1409.1556), section 3.1.
"""

from typing import Any

from flaxres.experiments.sweeps import grid

MODELS = ("vgg-13", "vgg-13-skip")
SEEDS = range(3)
IMAGE_SIZE = 32  # pixels
LEARNING_RATE = 0.01


def get_sweep(config: str = "configs/digits.py") -> list[dict[str, Any]]:
    """Returns the runs of every model with every seed."""
    overrides = {"dataset.image_size": IMAGE_SIZE, "learning_rate": LEARNING_RATE}
    return grid(config, {model: (model, overrides) for model in MODELS}, SEEDS)
