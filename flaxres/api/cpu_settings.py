"""CPU settings of the process that uses the API: `tune`, and one line where they are missing."""

from __future__ import annotations

from flaxres.cpu import settings
from flaxres.cpu.running_process import missing_settings, tune_running
from flaxres.errors import print_note


def tune() -> None:
    """Applies the CPU settings of flaxres's commands to this process. Call it before JAX computes.

    flaxres itself sets nothing for the whole process unless you call this. `tune` adds a flag to
    XLA_FLAGS, makes JAX's calls on the CPU synchronous and JAX store compiled programs in the cache
    of flaxres, and makes malloc keep freed memory and use huge pages. Where JAX uses an
    accelerator, it only turns the cache on. What you have set yourself in the environment takes
    precedence. `python -m flaxres.cpu --print_env` prints the settings for programs that do not
    call `tune`.
    """
    tune_running()


def report_missing_settings() -> None:
    """Prints a note, once in a process, if JAX trains on the CPU without the settings of `tune`."""
    settings.report_missing_settings(print_note)
    if missing := missing_settings():
        print_note(
            f"this process runs without flaxres's settings of {missing} for CPUs, and without its "
            "cache of compiled programs; call flaxres.tune() before JAX computes"
        )
