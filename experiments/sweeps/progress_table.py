"""Progress of a sweep: a live table on a terminal, log lines elsewhere."""

from __future__ import annotations

import datetime
import threading
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Group
from rich.live import Live
from rich.table import Table

from flaxres.errors import counted, printable
from flaxres.experiments.sweeps.run_progress import RunProgress, RunState
from flaxres.terminal import make_console

SUMMARY_SECONDS = 60  # between two summaries without a terminal
ORDER = (
    *(RunState.RUNNING, RunState.FAILED, RunState.STOPPED),
    *(RunState.QUEUED, RunState.FINISHED, RunState.WAITING),
)
HEADER = ("run", "state", "step", "training error", "test error", "ETA")
STYLES = {
    RunState.RUNNING: "bold",
    RunState.FAILED: "red",
    RunState.WAITING: "dim",
    RunState.QUEUED: "dim",
}
OTHER_LINES = 4  # header, hidden runs, summary and cursor
MIN_ROWS = 3


class ProgressTable:
    """Context manager that shows state, step, errors and time left of each run."""

    def __init__(self, runs: Sequence[RunProgress], title: str):
        """Creates a table.

        Args:
          runs: runs to show; read at each `update`.
          title: name of the sweep in the summary line.
        """
        self._runs = runs
        self._title = title
        self._console = make_console(stderr=True, highlight=False, soft_wrap=True)
        is_main_thread = threading.current_thread() is threading.main_thread()
        self._is_live = self._console.is_terminal and is_main_thread
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._start_time = self._last_summary = time.monotonic()
        self._done_at_start = self._done_cost()

    def __enter__(self) -> ProgressTable:
        if self._is_live:
            self._live.start()
        self.update()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._live.update(self._render(), refresh=True)
            self._live.stop()
        else:
            self.log(self.summary())

    def log(self, message: str) -> None:
        """Prints one line, on a terminal above the table."""
        self._console.print(printable(message))

    def update(self) -> None:
        """Shows the current progress of the runs."""
        if self._is_live:
            self._live.update(self._render(), refresh=True)
        elif time.monotonic() - self._last_summary > SUMMARY_SECONDS:
            self._last_summary = time.monotonic()
            self.log(self.summary())

    def summary(self) -> str:
        """Returns one line with the number of runs in each state, and the time left."""
        counts = Counter(run.state for run in self._runs)
        parts = [f"{counts[state]} {state.value}" for state in RunState if counts[state]]
        runs = counted(len(self._runs), "run")
        eta = self._eta()
        return f"{self._title}: {runs}, {', '.join(parts)}" + (f"; ETA {eta}" if eta else "")

    def _done_cost(self) -> float:
        return sum(run.cost * run.fraction() for run in self._runs)

    def _eta(self) -> str:
        """Returns the time left at the mean speed since the start; "" if no run is left."""
        remaining_cost = sum(
            run.cost * (1 - run.fraction())
            for run in self._runs
            if run.state not in (RunState.FINISHED, RunState.FAILED, RunState.STOPPED)
        )
        if not remaining_cost:
            return ""
        done_cost = self._done_cost() - self._done_at_start
        seconds = time.monotonic() - self._start_time
        return format_duration(seconds * remaining_cost / done_cost) if done_cost else "-"

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in HEADER:
            table.add_column(column, justify="left" if column in ("run", "state") else "right")
        max_rows = max(MIN_ROWS, self._console.height - OTHER_LINES)
        runs = sorted(self._runs, key=lambda run: ORDER.index(run.state))
        hidden = len(runs) - max_rows
        for run in runs[: max_rows - (hidden > 0)]:
            table.add_row(*row_cells(run), style=STYLES.get(run.state))
        if hidden > 0:
            table.add_row(f"... and {hidden + 1} more")
        return Group(table, self.summary())


def row_cells(run: RunProgress) -> tuple[str, ...]:
    """Returns the cells of a run, in the order of `HEADER`."""
    config = run.plan.config
    state = run.state.value
    if run.state is RunState.RUNNING and run.attempts > 1:
        state += f", retry {run.attempts - 1}"
    train_error = run.record.get("train_error")
    images_per_second = run.record.get("images_per_second")
    eta = ""
    if run.state is RunState.RUNNING and images_per_second:
        remaining_images = (config.num_steps - run.step) * config.batch_size
        eta = format_duration(remaining_images / images_per_second)
    return (
        run.plan.name,
        state,
        f"{run.step:,}/{config.num_steps:,}",
        "" if train_error is None else f"{train_error:.2f}%",
        "" if run.test_error is None else f"{run.test_error:.2f}%",
        eta,
    )


def format_duration(seconds: float) -> str:
    """Formats a duration as hours, minutes and seconds, such as 1:02:03."""
    return str(datetime.timedelta(seconds=round(seconds)))
