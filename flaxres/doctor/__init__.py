"""Checks of an installation: `flaxres doctor`, or `python -m flaxres.doctor`.

`software` and `machine` check what can be found without JAX. `probe` is a program that the doctor
runs in a process with time limits: it starts JAX, builds the kernels and trains for two steps.
"""
