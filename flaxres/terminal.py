"""Terminal output: progress bars, and tables that are not cut off in files and pipes."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

REFRESHES_PER_SECOND = 2  # each refresh takes about a millisecond from the steps on a CPU


def make_progress_bar(
    *columns: ProgressColumn,
    console: Console | None = None,
    disable: bool = False,
    transient: bool = True,
) -> Progress:
    """Creates a progress bar with a description, a bar, `columns` and an ETA.

    Args:
      columns: what to show between the bar and the ETA.
      console: where to show it (default: standard error).
      disable: if True, nothing is shown. Nothing is shown where there is no terminal either.
      transient: if True, the bar disappears when it is done.
    """
    console = console or Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        *columns,
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=REFRESHES_PER_SECOND,
        transient=transient,
        disable=disable or not console.is_terminal,
    )


def print_table(table: Table, *lines: str, min_width: int = 80) -> None:
    """Prints a table, then lines of text, on standard output.

    In a file or a pipe the table is as wide as its contents: those have no width of their own.
    """
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = sys.maxsize  # a table is measured against the width of the console
        console.width = max(min_width, console.measure(table).maximum)
    console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True)
