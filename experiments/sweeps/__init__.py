"""Sweeps: the runs that a sweep file lists, their queue, their launch and their progress.

Sweep files import `grid` from here. The command lines and `experiments.analyses` import from this
package. It imports `experiments.executors`, `experiments.results` and `flaxres`.
"""

from flaxres.experiments.sweeps.plan import grid

__all__ = ["grid"]
