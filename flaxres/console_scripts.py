"""Console scripts of an installed flaxres: `flaxres` and `flaxres-sweep`, `flaxres-report`, ...

`flaxres WORD ...` runs one of `flaxres.subcommands`; without a word it is `python -m flaxres.main`.
"""

from __future__ import annotations

import runpy
import sys

from flaxres.subcommands import replace_command


def main() -> None:
    """Runs the command that the first argument names, or the command line for one model."""
    _run(replace_command())


def sweep() -> None:
    """Runs the command line for sweeps."""
    _run("flaxres.experiments.sweep")


def degradation() -> None:
    """Runs the degradation experiment."""
    _run("flaxres.experiments.degradation")


def reproduction() -> None:
    """Runs the paper's experiment."""
    _run("flaxres.experiments.reproduction")


def analyze() -> None:
    """Runs an analysis of trained models."""
    _run("flaxres.experiments.analyze")


def report() -> None:
    """Writes the report of a workdir."""
    _run("flaxres.experiments.report")


def _run(module: str) -> None:
    """Runs a module as `python -m` does.

    Modules of the current directory can then be imported, such as those that a config file needs.
    """
    sys.path[0] = ""
    runpy.run_module(module, run_name="__main__", alter_sys=True)
