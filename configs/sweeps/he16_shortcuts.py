"""Identity against other shortcuts in ResNet-110: He16 (arXiv 1603.05027), table 1.

python -m experiments.sweep --sweep=configs/sweeps/he16_shortcuts.py --workdir=runs/he16_shortcuts
"""

from experiments.sweeps import grid

NET = "resnet-110"
SHORTCUTS = ("A", "scale", "exclusive-gate", "shortcut-gate", "C", "dropout")  # C: 1x1 convolutions
SEEDS = range(3)


def get_sweep(config: str = "configs/digits.py"):
    """Every shortcut with every seed."""
    variants = {f"{NET}-{shortcut}": (NET, {"model.shortcut": shortcut}) for shortcut in SHORTCUTS}
    return grid(config, variants, SEEDS)
