"""Findings of the doctor, and their text."""

from __future__ import annotations

import dataclasses
import os
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from flaxres.errors import printable

OK, NOTE, PROBLEM = "ok", "note", "problem"
MARKS = {OK: ("ok", "green"), NOTE: ("--", "yellow"), PROBLEM: ("!!", "bold red")}
MAX_WIDTH = 100  # characters of a line


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
      name: what was examined, such as 'jax'.
      value: what was found.
      status: OK, NOTE for something optional that is missing, or PROBLEM.
      advice: what to do, if anything.
    """

    name: str
    value: str
    status: str = OK
    advice: str = ""


def print_findings(sections: Mapping[str, Sequence[Finding]]) -> None:
    """Prints sections of findings on standard output, wrapped to the width of a terminal."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    width = min(MAX_WIDTH, shutil.get_terminal_size().columns)
    for title, findings in sections.items():
        console.print(Text(f"\n{title}", style="bold"))
        for finding in findings:
            mark, style = MARKS[finding.status]
            text = f"{finding.name}: {finding.value}" if finding.value else finding.name
            first, *others = _wrap(text, width)
            console.print(Text.assemble("  ", (mark, style), "  ", first))
            for line in others:
                console.print(Text(f"      {line}"))
            for line in _wrap(finding.advice, width - 3):
                start = "   " if line != _wrap(finding.advice, width - 3)[0] else "-> "
                console.print(Text(f"      {start}{line}"))


def _wrap(text: str, width: int) -> list[str]:
    lines = textwrap.wrap(text, max(20, width - 6), break_long_words=False, break_on_hyphens=False)
    return [printable(line) for line in lines]


def without_home(text: str) -> str:
    """Returns a text with ~ for the user's home directory, so that it can be shown to others."""
    home = os.path.expanduser("~")
    return text.replace(home, "~") if len(home) > 1 else text


def shown_path(path: str | Path) -> str:
    """Returns a path with ~ for the user's home directory."""
    return without_home(str(path))


def gib(size: float) -> str:
    """Returns a number of bytes as text in GiB, or in MiB if it is smaller than one GiB."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"
