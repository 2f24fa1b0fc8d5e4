"""The sweep of `degradation.py`, with the three seeds of a model trained by one program.

flaxres sweep --sweep=configs/sweeps/degradation_one_program.py --workdir=runs/sweep

This is faster for models as small as those on the digits (`benchmarks/replicas.py`), and slower for
CIFAR on a CPU. A seed that diverges also stops the other seeds of its program.
"""

from typing import Any

from flaxres.configs.sweeps.degradation import MODELS, SEEDS
from flaxres.experiments.sweeps import grid


def get_sweep(config: str = "configs/digits.py") -> list[dict[str, Any]]:
    """Returns one run per model, which trains all seeds."""
    return grid(config, {model: (model, {}) for model in MODELS}, SEEDS, one_program=True)
