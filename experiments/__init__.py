"""Experiments with several runs: sweeps, analyses, tables, figures and reports.

Imported by `benchmarks` and by sweep files; imports `flaxres` and `configs`.
"""
