"""Reference page of error classes and exit codes."""

from __future__ import annotations

import inspect
import signal

from flaxres import errors
from tools.docs.text import code, inline, page, table

INTRODUCTION = """
A mistake gets one line on standard error, `error: ...`, with what was given and what is right. In
Python the same line is the message of an exception: all exceptions that a user can fix are
subclasses of `flaxres.errors.UserError`. A command then ends with the exit code of the class:
"""
SIGNALS = """
A run that a signal stops saves its state first, raises `InterruptedRunError`, and ends with 128
plus the number of the signal: {examples}. A program whose reader of standard output has exited ends
with 141. [Runs](../running.md#exit-codes) describes what is saved in each case.
"""


def errors_page() -> str:
    """Returns the page: error classes with exit codes, from `flaxres.errors`."""
    classes = [errors.UserError, *_subclasses(errors.UserError)]
    rows = []
    for error in classes:
        exit_code = getattr(error, "exit_code", None)
        text = (inspect.getdoc(error) or "").split("\n\n")[0]
        base = error.__mro__[1].__name__
        kind = "" if base in ("Exception", "UserError") else f" A {code(base)}."
        rows.append((code(error.__name__), str(exit_code or "128 + n"), inline(text) + kind))
    listing = table(("class", "exit code", "meaning"), rows, numbers=[1])
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    examples = ", ".join(f"{128 + number} ({number.name})" for number in numbers)
    stops = SIGNALS.strip().format(examples=examples)
    return page("Errors and exit codes", INTRODUCTION.strip(), listing, stops)


def _subclasses(base: type) -> list[type]:
    """Returns the subclasses of a class in flaxres, in the order of their definition."""
    found: list[type] = []
    for error in base.__subclasses__():
        found += [error, *_subclasses(error)]
    return [error for error in found if error.__module__.startswith("flaxres")]
