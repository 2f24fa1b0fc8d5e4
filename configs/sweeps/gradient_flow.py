"""How gradients and activations fare through 56 layers: shortcuts, batch norm, and initialisation.

python -m experiments.sweep --sweep=configs/sweeps/gradient_flow.py --workdir=runs/gradient_flow
python -m experiments.analyze gradients --workdir=runs/gradient_flow --only='*/seed-0'

Plain and residual nets with and without batch norm, whose kernels begin at He-2015's standard
deviation, at half of it or at one and a half times it. Without batch norm a net may diverge, which
is a result too: what it was like before its first step is on record all the same.
"""

from experiments.sweeps import grid

NETS = ("plain-56", "resnet-56")
NORMS = ("batch", "none")
GAINS = (0.5, 1.0, 1.5)
RATE = {"batch": 0.1, "none": 0.01}  # the paper's, and one at which nets without norm may train
EVERY = 30  # steps
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py"):
    """Every net with every norm, gain and seed."""
    variants = {
        f"{net}-{norm}-gain{gain}": (
            net,
            {
                "model.norm": norm,
                "model.init_gain": gain,
                "learning_rate": RATE[norm],
                "log_layers_every": EVERY,
            },
        )
        for net in NETS
        for norm in NORMS
        for gain in GAINS
    }
    return grid(config, variants, SEEDS)
