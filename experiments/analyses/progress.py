"""How far a long analysis is: a bar with the time left, on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress(total: float) -> Iterator[Callable[[str, float], None]]:
    """Shows a bar on standard error while the context is open; nothing where that is no terminal.

    Args:
      total: cost of all that is to be done, in any unit.

    Yields:
      `done(what, cost)`, to be called after each part: what it was of, and its share of `total`.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("starting", total=total)
        yield lambda what, cost: bar.update(task, advance=cost, description=what)
