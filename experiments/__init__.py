"""Experiments with several runs: sweeps, analyses, tables, figures and reports."""
