"""Batch, layer, group, instance and no norm, in a plain and a residual net of 20 layers.

python -m experiments.sweep --sweep=configs/sweeps/norms.py --workdir=runs/norms
"""

from experiments.sweeps import grid

NETS = ("plain-20", "resnet-20")
NORMS = ("batch", "layer", "group", "instance", "none")
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py"):
    """Every net with every norm and seed. Without a norm a run may diverge, which is a result."""
    variants = {f"{net}-{norm}": (net, {"model.norm": norm}) for net in NETS for norm in NORMS}
    return grid(config, variants, SEEDS)
