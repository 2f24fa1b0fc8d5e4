"""Progress of a sweep in a Jupyter notebook: a table below the cell, which changes in place."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from flaxres.errors import printable
from flaxres.experiments.sweeps.progress_table import HEADER, ProgressTable, row_cells
from flaxres.experiments.sweeps.run_progress import RunProgress, RunState
from flaxres.terminal import in_notebook

MAX_ROWS = 50
MAX_MESSAGES = 10


def make_progress_table(runs: Sequence[RunProgress], title: str) -> ProgressTable:
    """Creates the progress of a sweep for the place where its program runs.

    Args:
      runs: runs to show; read at each `update`.
      title: name of the sweep in the summary line.
    """
    return (NotebookTable if in_notebook() else ProgressTable)(runs, title)


class NotebookTable(ProgressTable):
    """Context manager that shows the runs, in their order, as an output of the notebook's cell."""

    _handle: Any = None
    _shown = ""
    _messages: tuple[str, ...] = ()

    def __enter__(self) -> NotebookTable:
        from IPython.display import display

        self._shown = self._html()
        self._handle = display(self._content(), raw=True, display_id=True)
        return self

    def __exit__(self, *_: object) -> None:
        if all(run.state is RunState.FINISHED for run in self._runs):
            self._messages = ()
        self.update()

    def log(self, message: str) -> None:
        """Shows one line below the table, with the lines before."""
        self._messages = (*self._messages, printable(message))[-MAX_MESSAGES:]
        self.update()

    def update(self) -> None:
        """Shows the current progress of the runs, if it has changed."""
        text = self._html()
        if text != self._shown:
            self._shown = text
            self._handle.update(self._content(), raw=True)

    def _content(self) -> dict[str, str]:
        return {"text/plain": self.summary(), "text/html": self._shown}

    def _html(self) -> str:
        shown = self._runs[:MAX_ROWS]
        rows = [_row("th", HEADER), *(_row("td", row_cells(run)) for run in shown)]
        lines = (html.escape(line) for line in (self.summary(), *self._messages))
        return f"<table>{''.join(rows)}</table>\n{'<br>'.join(lines)}"


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>\n"
