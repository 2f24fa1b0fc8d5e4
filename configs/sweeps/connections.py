"""Plain, residual and dense nets of about as many params.

python -m experiments.sweep --sweep=configs/sweeps/connections.py --workdir=runs/connections

With CIFAR's images a DenseNet-BC of 100 layers has 0.77M params, nets of 50 and 56 layers 0.76M and
0.85M.
"""

from experiments.sweeps import grid

NETS = ("plain-50", "resnet-50", "preact-50", "densenet-bc-100-12")
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py"):
    """Every net with every seed."""
    return grid(config, {net: (net, {}) for net in NETS}, SEEDS)
