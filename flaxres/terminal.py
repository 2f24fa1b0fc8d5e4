"""Terminal output: progress bars, and tables that keep their full width in files and pipes."""

from __future__ import annotations

import sys
import threading
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

REFRESHES_PER_SECOND = 2  # a refresh takes about 1 ms of CPU time, which training on a CPU lacks


def in_notebook() -> bool:
    """Returns True in a Jupyter kernel, which shows outputs below the cells of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel")


def make_console(**options: Any) -> Console:
    """Creates a console that prints text without markup. A notebook is no terminal."""
    is_terminal = False if in_notebook() else None  # Jupyter sets FORCE_COLOR, which rich obeys
    defaults = {"markup": False, "force_jupyter": False, "force_terminal": is_terminal}
    return Console(**{**defaults, **options})


def make_progress_bar(
    *columns: ProgressColumn,
    console: Console | None = None,
    disable: bool = False,
    transient: bool = True,
) -> Progress:
    """Creates a progress bar with a description, a bar, `columns` and an ETA.

    Args:
      columns: columns between the bar and the ETA.
      console: console on which the bar is drawn (default: standard error).
      disable: if True, draws nothing. Nothing is drawn either without a terminal, and by other
        threads than the main one, whose bars would mix.
      transient: if True, the bar disappears when it ends.
    """
    console = console or make_console(stderr=True)
    is_main_thread = threading.current_thread() is threading.main_thread()
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        *columns,
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=REFRESHES_PER_SECOND,
        transient=transient,
        disable=disable or not console.is_terminal or not is_main_thread,
    )


def print_table(table: Table, *lines: str, min_width: int = 80) -> None:
    """Prints a table, then lines of text, on standard output.

    On a terminal the table has at most the terminal's width. In a file or pipe it is as wide as its
    content requires, and nothing is cut off.

    Args:
      table: the table.
      lines: lines of text below the table; they are not wrapped.
      min_width: smallest width in a file or pipe, in characters.
    """
    console = make_console(highlight=False)
    if not console.is_terminal:
        console.width = sys.maxsize  # `measure` returns at most the width of the console
        console.width = max(min_width, console.measure(table).maximum)
    console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True)
