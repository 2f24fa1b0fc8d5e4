"""Terminal output: progress bars, and tables that keep their full width in files and pipes."""

from __future__ import annotations

import html
import sys
import threading
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from flaxres.errors import printable

REFRESHES_PER_SECOND = 2  # a refresh takes about 1 ms of CPU time, which training on a CPU lacks


def in_notebook() -> bool:
    """Returns True in a Jupyter kernel, which shows outputs below the cells of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel")


class _PrintableConsole(Console):
    """A console that escapes control characters in the lines and cells that it is given as str."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns a text with its style, line by line without control characters."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)


class _Description(TextColumn):
    """The description of a task, without control characters and markup."""

    def render(self, task: Task) -> Text:
        """Returns the description."""
        return Text(printable(task.description))


def make_console(**options: Any) -> Console:
    """Creates a console that prints text without markup and without control characters.

    A notebook is no terminal.
    """
    is_terminal = False if in_notebook() else None  # Jupyter sets FORCE_COLOR, which rich obeys
    defaults = {"markup": False, "force_jupyter": False, "force_terminal": is_terminal}
    return _PrintableConsole(**{**defaults, **options})


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
      disable: if True, draws nothing. Nothing is drawn either without a terminal or notebook, and
        by other threads than the main one, whose bars would mix.
      transient: if True, the bar disappears when it ends.
    """
    console = console or make_console(stderr=True)
    is_main_thread = threading.current_thread() is threading.main_thread()
    if in_notebook():
        return NotebookBar(console=console, is_shown=is_main_thread and not disable)
    return Progress(
        _Description(""),
        BarColumn(bar_width=20),
        *columns,
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=REFRESHES_PER_SECOND,
        transient=transient,
        disable=disable or not console.is_terminal or not is_main_thread,
    )


class NotebookBar(Progress):
    """A progress bar as an output of a notebook's cell, which disappears when it ends.

    Work that takes less than a refresh shows none.
    """

    def __init__(self, console: Console, is_shown: bool = True):
        """Creates a bar.

        Args:
          console: not used, because nothing is drawn on it.
          is_shown: if False, nothing is shown.
        """
        super().__init__(console=console, disable=True)
        self._is_shown = is_shown
        self._handle: Any = None
        self._shown = ""
        self._next_time = time.monotonic() + 1 / REFRESHES_PER_SECOND

    def update(self, *arguments: Any, **options: Any) -> None:
        """Changes a task as `Progress.update` does, and shows it at most twice a second."""
        super().update(*arguments, **options)
        if self._is_shown and time.monotonic() >= self._next_time:
            self._next_time = time.monotonic() + 1 / REFRESHES_PER_SECOND
            self._show("\n".join(_as_html(task) for task in self.tasks))

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advances a task as `update` does."""
        self.update(task_id, advance=advance)

    def stop(self) -> None:
        """Removes the bar."""
        super().stop()
        if self._handle is not None:
            self._show("")

    def _show(self, text: str) -> None:
        from IPython.display import display

        self._shown = text
        content = {"text/plain": "", "text/html": text}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def _as_html(task: Task) -> str:
    bar = f'<progress value="{task.completed}" max="{task.total or 1}"></progress>'
    return f"<div>{bar} {html.escape(task.description)} {task.percentage:.0f} %</div>"


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
