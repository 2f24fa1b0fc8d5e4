"""Progress of an analysis: a bar with the time left on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.progress import TaskProgressColumn

from flaxres.experiments.sweeps.progress_table import format_duration
from flaxres.parallel.multihost import print_to_stderr
from flaxres.terminal import in_notebook, make_console, make_progress_bar

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


def log_done(label: str, seconds: float) -> None:
    """Prints a line on standard error for a part of the work, if that shows no progress bar.

    Args:
      label: name of the part.
      seconds: time that the part took.
    """
    if not make_console(stderr=True).is_terminal and not in_notebook():
        print_to_stderr(f"{label}: done in {format_duration(seconds)}")
