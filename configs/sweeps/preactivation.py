"""ReLU before or after the addition, at 110 and 164 layers: He16 (arXiv 1603.05027), table 2.

python -m experiments.sweep --sweep=configs/sweeps/preactivation.py --workdir=runs/preactivation

The nets of 164 layers have bottlenecks.
"""

from experiments.sweeps import grid

NETS = ("resnet-110", "preact-110", "resnet-164-bottleneck", "preact-164")
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py"):
    """Every net with every seed."""
    return grid(config, {net: (net, {}) for net in NETS}, SEEDS)
