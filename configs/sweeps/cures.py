"""Cures of degradation: plain-56 as it is, with shortcuts, or with other kernels and layers.

flaxres sweep --sweep=configs/sweeps/cures.py --workdir=runs/cures
flaxres sweep --sweep=configs/sweeps/cures.py:configs/cifar10_short.py --workdir=runs/cures_short

Append `--config.dataset.name=cifar10_jpeg` for that data set. Models without a norm have a lower
learning rate. Of the plain networks without batch norm, those with ReLU are not among the variants:
they do not train at any learning rate that was tried (`docs/models.md`).
"""

from typing import Any

from flaxres.experiments.sweeps import grid

WITHOUT_NORM = {"learning_rate": 0.01, "model.norm": "none"}
DELTA_ORTHOGONAL = {"model.init": "delta-orthogonal"}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain-56": ("plain-56", {}),
    "resnet-56": ("resnet-56", {}),
    # Without shortcuts, with batch norm.
    "delta-orthogonal": ("plain-56", DELTA_ORTHOGONAL),
    "dirac-init": ("plain-56", {"model.init": "dirac"}),
    "dirac-56": ("dirac-56", {}),
    "repvgg-56": ("repvgg-56", {}),
    # Without shortcuts and without a norm.
    "delta-orthogonal-tanh": (
        "plain-56",
        DELTA_ORTHOGONAL | WITHOUT_NORM | {"model.activation": "tanh"},
    ),
    "tailored-relu": (
        "plain-56",
        DELTA_ORTHOGONAL | WITHOUT_NORM | {"model.activation": "tailored-relu"},
    ),
    # With shortcuts, without a norm.
    "skipinit-56": ("skipinit-56", {}),
    "fixup-56": ("fixup-56", {}),
}
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py") -> list[dict[str, Any]]:
    """Returns the runs of every cure with every seed."""
    return grid(config, VARIANTS, SEEDS)
