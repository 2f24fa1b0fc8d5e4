"""Progress of a run in a Jupyter notebook: one line below the cell, which changes in place."""

from __future__ import annotations

import html
import sys
import time
from typing import Any

from flaxres.errors import printable
from flaxres.run.terminal_writer import LOG_SECONDS, TerminalWriter
from flaxres.terminal import in_notebook


def make_progress_writer(
    title: str, num_steps: int, quiet: bool, log_seconds: float = LOG_SECONDS
) -> TerminalWriter:
    """Creates the progress of a run for the place where its program runs.

    Args:
      title: name of the run.
      num_steps: total number of steps.
      quiet: if True, nothing is shown and printed.
      log_seconds: smallest time between two lines in a file or pipe, in seconds.
    """
    if in_notebook() and not quiet:
        return NotebookWriter(title, num_steps)
    return TerminalWriter(title, num_steps, quiet, log_seconds)


class NotebookWriter(TerminalWriter):
    """A progress bar with the newest values, as an output of the notebook's cell."""

    def __init__(self, title: str, num_steps: int) -> None:
        """Prepares the progress bar; entering the context shows it.

        Args:
          title: name of the run.
          num_steps: total number of steps.
        """
        super().__init__(title, num_steps, quiet=True)
        self._handle: Any = None
        self._shown = ""

    def __enter__(self) -> NotebookWriter:
        from IPython.display import display

        self._shown = self._line()
        self._handle = display(self._content(), raw=True, display_id=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._show()

    def log(self, message: str) -> None:
        """Prints one line below the cell."""
        print(printable(message), file=sys.stderr, flush=True)

    def is_due(self) -> bool:
        """Returns True if the progress bar should be refreshed now."""
        return time.monotonic() - self._last_update_time >= 0.5

    def update(self, step: int, record: dict[str, float] | None = None, note: str = "") -> None:
        """Moves the progress bar, at most twice a second.

        Args:
          step: number of completed steps.
          record: values to show beside the bar, in addition to earlier ones.
          note: text to show instead of the values.
        """
        is_due = self.is_due() or bool(note) or step == self._num_steps
        last_time = self._last_update_time
        super().update(step, record, note)
        if is_due:
            self._show()
        else:
            self._last_update_time = last_time

    def write(self, record: dict[str, float]) -> None:
        """Shows a record on the progress bar."""
        self.update(int(record["step"]), record)

    def _line(self) -> str:
        position = f"{self._step:,} of {self._num_steps:,} steps"
        is_finished = self._step == self._num_steps
        values = [v for v in self.values() if not (is_finished and v.startswith("ETA"))]
        return "  ".join([self._title, position, *values])

    def _content(self) -> dict[str, str]:
        bar = f'<progress value="{self._step}" max="{self._num_steps}"></progress>'
        text = html.escape(self._shown).replace("  ", "&emsp;")
        return {"text/plain": self._shown, "text/html": f"<div>{bar} {text}</div>"}

    def _show(self) -> None:
        line = self._line()
        if self._handle is not None and line != self._shown:
            self._shown = line
            self._handle.update(self._content(), raw=True)
