"""Parallel training: sharded steps (jit or pmap), multi-process runs, and replicas.

Imported by `flaxres.config` and above; imports only `flaxres.cpu` and `flaxres.errors`.
"""
