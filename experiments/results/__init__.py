"""Results of runs on disk: reading them, tables of them and figures of them.

Imported by every other package of `experiments`; imports only `flaxres`.
"""
