"""Former location of `experiments.sweeps.grid`, kept for existing sweep files."""

from experiments.sweeps.plan import grid

__all__ = ["grid"]
