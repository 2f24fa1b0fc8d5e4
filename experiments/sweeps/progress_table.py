"""What a sweep shows while it runs: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import datetime
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from experiments.sweeps.scheduler import RunProgress, RunState

SUMMARY_SECONDS = 60  # between two summaries where there is no terminal
ORDER = (
    *(RunState.RUNNING, RunState.FAILED, RunState.STOPPED),
    *(RunState.QUEUED, RunState.FINISHED, RunState.WAITING),
)


class ProgressTable:
    """Run, state, step, errors and time left of each run; a context manager."""

    def __init__(self, runs: Sequence[RunProgress], title: str):
        """Shows `runs`, which it reads at each `update`."""
        self._runs = runs
        self._title = title
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._begin = self._summary = time.monotonic()
        self._done_before = self._done()

    def __enter__(self) -> ProgressTable:
        if self._console.is_terminal:
            self._live.start()
        self.update()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.update(self._render(), refresh=True)
            self._live.stop()
        else:
            self.log(self.summary())

    def log(self, message: str) -> None:
        """Prints one line, above the table if there is one."""
        self._console.print(message, markup=False)

    def update(self) -> None:
        """Shows the runs as they are now."""
        if self._console.is_terminal:
            self._live.update(self._render(), refresh=True)
        elif time.monotonic() - self._summary > SUMMARY_SECONDS:
            self._summary = time.monotonic()
            self.log(self.summary())

    def summary(self) -> str:
        """How many runs are where, and the time left."""
        counts = Counter(run.state for run in self._runs)
        parts = [f"{counts[state]} {state.value}" for state in RunState if counts[state]]
        return f"{self._title}: {len(self._runs)} runs, {', '.join(parts)}; ETA {self._eta()}"

    def _done(self) -> float:
        return sum(run.cost * run.fraction() for run in self._runs)

    def _eta(self) -> str:
        """Time left at the speed so far."""
        left = sum(
            run.cost * (1 - run.fraction())
            for run in self._runs
            if run.state not in (RunState.FINISHED, RunState.FAILED, RunState.STOPPED)
        )
        if not left:
            return "0:00:00"
        done = self._done() - self._done_before
        return format_duration((time.monotonic() - self._begin) * left / done) if done else "-"

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("run", "state", "step", "train error", "test error", "ETA"):
            table.add_column(column, justify="left" if column in ("run", "state") else "right")
        room = max(3, self._console.height - 4)
        shown = sorted(self._runs, key=lambda run: ORDER.index(run.state))
        hidden = len(shown) - room
        for run in shown[: room - (hidden > 0)]:
            table.add_row(*_cells(run), style=_STYLES.get(run.state))
        if hidden > 0:
            table.add_row(f"... and {hidden + 1} more")
        return Group(table, Text(self.summary()))


_STYLES = {
    RunState.RUNNING: "bold",
    RunState.FAILED: "red",
    RunState.WAITING: "dim",
    RunState.QUEUED: "dim",
}


def _cells(run: RunProgress) -> tuple[str, ...]:
    config = run.plan.config
    state = run.state.value
    if run.state is RunState.RUNNING and run.attempts > 1:
        state += f", retry {run.attempts - 1}"
    train = run.record.get("train_error")
    speed = run.record.get("images_per_second")
    left = ""
    if run.state is RunState.RUNNING and speed:
        left = format_duration((config.num_steps - run.step) * config.batch_size / speed)
    return (
        run.plan.name,
        state,
        f"{run.step:,}/{config.num_steps:,}",
        "" if train is None else f"{train:.2f}%",
        "" if run.test_error is None else f"{run.test_error:.2f}%",
        left,
    )


def format_duration(seconds: float) -> str:
    """Hours, minutes and seconds, as in 1:02:03."""
    return str(datetime.timedelta(seconds=round(seconds)))
