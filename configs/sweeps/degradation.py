"""He15 (arXiv 1512.03385), section 4.2: plain and residual nets of 20 to 56 layers, three seeds.

python -m experiments.sweep --sweep=configs/sweeps/degradation.py --workdir=runs/sweep
With the config file after a colon it is the experiment of the paper, meant for accelerators:
python -m experiments.sweep --sweep=configs/sweeps/degradation.py:configs/cifar10.py --workdir=X

Its first seed on the digits is what `make degradation` trains.
"""

from experiments.sweeps import grid

NETS = [f"{kind}-{depth}" for depth in (20, 32, 44, 56) for kind in ("plain", "resnet")]
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py"):
    """Every net with every seed."""
    return grid(config, {net: (net, {}) for net in NETS}, SEEDS)
