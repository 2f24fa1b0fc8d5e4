"""Several devices, processes or seeds: sharded steps with jit or pmap, multi-host runs, replicas.

Imported by `flaxres.config` and above; imports only `flaxres.cpu` and `flaxres.errors`.
"""
