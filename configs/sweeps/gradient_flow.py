"""Gradients and activations through 56 layers: shortcuts, batch norm and initialization.

flaxres sweep --sweep=configs/sweeps/gradient_flow.py --workdir=runs/gradient_flow
flaxres analyze gradients --workdir=runs/gradient_flow --only='*/seed-0'

Plain and residual models with and without batch norm. Kernels are initialized with 0.5, 1 or 1.5
times the standard deviation of He 2015. Models without batch norm may diverge; that is a result
too, and their statistics before the first step are recorded in any case.
"""

from typing import Any

from flaxres.experiments.sweeps import grid

MODELS = ("plain-56", "resnet-56")
NORMS = ("batch", "none")
INIT_GAINS = (0.5, 1.0, 1.5)
# The paper's learning rate, and a lower one at which models without a norm may train.
LEARNING_RATES = {"batch": 0.1, "none": 0.01}
LOG_LAYERS_EVERY = 30  # steps
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py") -> list[dict[str, Any]]:
    """Returns the runs of every model with every norm, gain and seed."""
    variants = {
        f"{model}-{norm}-gain{gain}": (
            model,
            {
                "model.norm": norm,
                "model.init_gain": gain,
                "learning_rate": LEARNING_RATES[norm],
                "log_layers_every": LOG_LAYERS_EVERY,
            },
        )
        for model in MODELS
        for norm in NORMS
        for gain in INIT_GAINS
    }
    return grid(config, variants, SEEDS)
