"""The sweep of `degradation.py` with the three seeds of a net in one program.

python -m experiments.sweep --sweep=configs/sweeps/degradation_one_program.py --workdir=runs/sweep

Faster for nets as small as those on the digits (`benchmarks/replicas.py`), slower for CIFAR on a
CPU; and a seed that diverges takes the others with it.
"""

from configs.sweeps.degradation import NETS, SEEDS
from experiments.sweeps import grid


def get_sweep(config: str = "configs/digits.py"):
    """Every net, once, with all seeds."""
    return grid(config, {net: (net, {}) for net in NETS}, SEEDS, one_program=True)
