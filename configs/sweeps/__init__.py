"""Sweeps: one file each, with `get_sweep(config)`, which lists the runs of the sweep."""
