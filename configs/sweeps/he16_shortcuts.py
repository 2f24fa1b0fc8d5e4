"""Identity and other shortcuts in ResNet-110: He16 (arXiv 1603.05027), table 1.

flaxres sweep --sweep=configs/sweeps/he16_shortcuts.py --workdir=runs/he16_shortcuts
"""

from typing import Any

from flaxres.experiments.sweeps import grid

MODEL = "resnet-110"
SHORTCUTS = ("A", "scale", "exclusive-gate", "shortcut-gate", "C", "dropout")  # C: 1x1 convolutions
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py") -> list[dict[str, Any]]:
    """Returns the runs of every shortcut with every seed."""
    variants = {
        f"{MODEL}-{shortcut}": (MODEL, {"model.shortcut": shortcut}) for shortcut in SHORTCUTS
    }
    return grid(config, variants, SEEDS)
