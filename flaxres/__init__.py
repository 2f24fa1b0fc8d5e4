"""flaxres: plain and residual networks in JAX/Flax, and the degradation of plain networks."""

__version__ = "0.1.0"
