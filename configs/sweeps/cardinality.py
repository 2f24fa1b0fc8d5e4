"""Cardinality at equal cost: Xie17 (arXiv 1611.05431), section 5.1, in ResNeXt-29.

flaxres sweep --sweep=configs/sweeps/cardinality.py --workdir=runs/cardinality

More groups are narrower. The width of a group is chosen so that a block with 256 outer channels has
nearly as many weights as a block with one group of 64 channels.
"""

from typing import Any

from flaxres.experiments.sweeps import grid

GROUPS = (1, 2, 4, 8, 16, 32)
OUTER_CHANNELS = 256  # channels at the input and output of a block
REFERENCE_WIDTH = 64  # channels inside a block with one group
SEEDS = range(3)


def block_weights(groups: int, width: int) -> int:
    """Returns the number of weights in the three convolutions of a block: Xie17, equation 4."""
    return groups * (2 * OUTER_CHANNELS * width + 3 * 3 * width * width)


def group_width(groups: int) -> int:
    """Returns the channels per group for about as many weights as with one group."""
    reference = block_weights(1, REFERENCE_WIDTH)
    return min(
        range(1, REFERENCE_WIDTH + 1),
        key=lambda width: abs(block_weights(groups, width) - reference),
    )


def get_sweep(config: str = "configs/digits.py") -> list[dict[str, Any]]:
    """Returns the runs of every cardinality with every seed."""
    models = [f"resnext-29-{groups}x{group_width(groups)}d" for groups in GROUPS]
    return grid(config, {model: (model, {}) for model in models}, SEEDS)
