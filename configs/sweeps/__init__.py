"""Sweeps: one file each, with `get_sweep(config)` that lists its runs."""
