"""Cures of degradation: plain-56, and networks of the same depth that may train.

flaxres sweep --sweep=configs/sweeps/cures.py --workdir=runs/cures
flaxres sweep --sweep=configs/sweeps/cures.py:configs/cifar10_short.py --workdir=runs/cures_short

Append `--config.dataset.name=cifar10_jpeg` for CIFAR-10 as JPEG files. Models without a norm,
except Fixup, have lower learning rates, which were chosen on the digits with seed 0.
"""

from typing import Any

from flaxres.experiments.sweeps import grid

DELTA_ORTHOGONAL = {"model.init": "delta-orthogonal"}
WITHOUT_NORM = {"model.norm": "none"}
# Variants by name: model and overrides.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain-56": ("plain-56", {}),
    "plain-56-no-norm": ("plain-56", WITHOUT_NORM | {"learning_rate": 0.003}),
    # With shortcuts.
    "resnet-56": ("resnet-56", {}),
    "skipinit-56": ("skipinit-56", {"learning_rate": 0.03}),  # without a norm
    "fixup-56": ("fixup-56", {}),  # without a norm
    # Without shortcuts, with batch norm.
    "delta-orthogonal": ("plain-56", DELTA_ORTHOGONAL),
    "dirac-init": ("plain-56", {"model.init": "dirac"}),
    "dirac-56": ("dirac-56", {}),
    "repvgg-56": ("repvgg-56", {}),
    # Without shortcuts and without a norm.
    "delta-orthogonal-no-norm": (
        "plain-56",
        DELTA_ORTHOGONAL | WITHOUT_NORM | {"learning_rate": 0.003},
    ),
    "delta-orthogonal-tanh": (
        "plain-56",
        DELTA_ORTHOGONAL | WITHOUT_NORM | {"learning_rate": 0.01, "model.activation": "tanh"},
    ),
    "tailored-relu": (
        "plain-56",
        DELTA_ORTHOGONAL
        | WITHOUT_NORM
        | {"learning_rate": 0.01, "model.activation": "tailored-relu"},
    ),
}
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py") -> list[dict[str, Any]]:
    """Returns the runs of every cure with every seed."""
    return grid(config, VARIANTS, SEEDS)
