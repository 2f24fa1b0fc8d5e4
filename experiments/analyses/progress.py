"""How far a long analysis is: a bar with the time left, on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.progress import TaskProgressColumn

from flaxres.terminal import make_progress_bar


@contextlib.contextmanager
def progress(total: float) -> Iterator[Callable[[str, float], None]]:
    """Shows a bar on standard error while the context is open; nothing where that is no terminal.

    Args:
      total: cost of all that is to be done, in any unit.

    Yields:
      `done(what, cost)`, to be called after each part: what it was of, and its share of `total`.
    """
    bar = make_progress_bar(TaskProgressColumn())
    with bar:
        task = bar.add_task("starting", total=total)
        yield lambda what, cost: bar.update(task, advance=cost, description=what)
