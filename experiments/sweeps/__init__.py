"""Sweeps: the runs of a sweep file, their order, their launch and their progress.

Sweep files import `grid` from here. Imported by the command lines and by `experiments.analyses`;
imports `experiments.executors`, `experiments.results` and `flaxres`.
"""

from experiments.sweeps.plan import grid

__all__ = ["grid"]
