"""Progress bar of an analysis, with the estimated time left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.progress import TaskProgressColumn

from flaxres.terminal import make_progress_bar

# `advance(label, cost)` is called after each part of the work, with a label to show next to the bar
# and the cost of that part, in the unit of `total`.
Advance = Callable[[str, float], None]


def no_progress(label: str, cost: float) -> None:
    """Ignores a finished part of the work: the default `Advance`."""


@contextlib.contextmanager
def progress_bar(total: float) -> Iterator[Advance]:
    """Shows a progress bar on standard error while the context is open, if that is a terminal.

    Args:
      total: cost of all the work, in any unit.

    Yields:
      The `Advance` function that moves the bar.
    """
    bar = make_progress_bar(TaskProgressColumn())
    with bar:
        task = bar.add_task("starting", total=total)
        yield lambda label, cost: bar.update(task, advance=cost, description=label)
