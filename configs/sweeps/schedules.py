"""Learning-rate schedules, each with the moving average of the weights evaluated beside them.

flaxres sweep --sweep=configs/sweeps/schedules.py --workdir=runs/schedules

The columns of the average are `ema_test_error` and `ema_test_loss`. The linear warm-up of 'wsd' and
the cooldown are fractions of the run, so that the sweep fits every config.
"""

from typing import Any

import flaxres
from flaxres.experiments.sweeps import grid

MODEL = "resnet-20"
SEEDS = range(3)
EMA_DECAY = 0.99  # an average over about 100 steps
WARMUP = 0.05  # fraction of the run
COOLDOWN = 0.2  # fraction of the run; Hagele et al. 2024 (arXiv 2405.18392), section 4


def get_sweep(config: str = "configs/digits.py") -> list[dict[str, Any]]:
    """Returns the runs of every schedule and seed."""
    num_steps = flaxres.get_config(f"{config}:{MODEL}").num_steps
    warmup_steps, cooldown_steps = round(WARMUP * num_steps), round(COOLDOWN * num_steps)
    schedules: dict[str, dict[str, Any]] = {
        "piecewise-constant": {},
        "cosine": {"schedule": "cosine"},
        "linear": {"schedule": "polynomial", "polynomial_power": 1.0},
        "one-cycle": {"schedule": "one-cycle"},
        "wsd": {
            "schedule": "wsd",
            "linear_warmup_steps": warmup_steps,
            "cooldown_steps": cooldown_steps,
        },
        # No decay: what the average gains by itself.
        "constant": {"boundaries": ()},
    }
    variants = {
        f"{MODEL}-{name}": (MODEL, {"ema_decay": EMA_DECAY, **overrides})
        for name, overrides in schedules.items()
    }
    return grid(config, variants, SEEDS)
