"""flaxres: plain and residual nets in JAX/Flax, and the degradation of plain ones with depth."""

__version__ = "0.1.0"
