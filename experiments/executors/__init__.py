"""Executors of sweeps, which start runs on this machine, on a Ray cluster or with SLURM.

Imported by `experiments.sweeps` and above; imports only `flaxres`.
"""
