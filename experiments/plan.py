"""The former home of `experiments.sweeps.grid`, kept for sweep files that import it from here."""

from experiments.sweeps.plan import grid

__all__ = ["grid"]
