"""Learning rates around the paper's 0.1, for a plain and a residual net of 56 layers.

python -m experiments.sweep --sweep=configs/sweeps/learning_rates.py --workdir=runs/learning_rates
"""

from experiments.sweeps import grid

NETS = ("plain-56", "resnet-56")
RATES = (0.01, 0.03, 0.1, 0.3)
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py"):
    """Every net with every rate and seed."""
    variants = {f"{net}-lr{rate}": (net, {"learning_rate": rate}) for net in NETS for rate in RATES}
    return grid(config, variants, SEEDS)
