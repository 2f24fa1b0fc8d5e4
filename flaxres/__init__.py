"""flaxres: plain and residual networks in JAX/Flax, and the degradation of plain networks.

Imported by `experiments`, `configs` and `benchmarks`; imports none of them.
"""

__version__ = "0.1.0"
