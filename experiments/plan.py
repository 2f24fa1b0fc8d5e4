"""Former location of `experiments.sweeps.grid`, kept for existing sweep files."""

from flaxres.experiments.sweeps.plan import grid

__all__ = ["grid"]
