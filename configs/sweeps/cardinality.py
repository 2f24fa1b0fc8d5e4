"""More groups at equal params: Xie17 (arXiv 1611.05431), section 5.1, in ResNeXt-29.

python -m experiments.sweep --sweep=configs/sweeps/cardinality.py --workdir=runs/cardinality

The width of a group is the whole number that brings the weights of a block with 256 channels at its
ends nearest to those of one with 64 channels in one group.
"""

from experiments.sweeps import grid

GROUPS = (1, 2, 4, 8, 16, 32)
CHANNELS, WIDTH = 256, 64  # at the ends of a block, and inside one of a single group
SEEDS = range(3)


def weights(groups: int, width: int) -> int:
    """Of a block's three convolutions: Xie17, equation 4."""
    return groups * (2 * CHANNELS * width + 3 * 3 * width * width)


def group_width(groups: int) -> int:
    """Channels of each group for as many weights as with one."""
    return min(range(1, WIDTH + 1), key=lambda w: abs(weights(groups, w) - weights(1, WIDTH)))


def get_sweep(config: str = "configs/digits.py"):
    """Every number of groups with every seed."""
    nets = [f"resnext-29-{groups}x{group_width(groups)}d" for groups in GROUPS]
    return grid(config, {net: (net, {}) for net in nets}, SEEDS)
