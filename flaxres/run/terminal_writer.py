"""Progress of a run for people: one live line on a terminal, lines with times in a file or pipe."""

from __future__ import annotations

import datetime
import threading
import time
from typing import NamedTuple

from rich.console import RenderableType
from rich.progress import Progress, ProgressColumn, Task
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flaxres.errors import printable
from flaxres.run.records import Record
from flaxres.terminal import REFRESHES_PER_SECOND, make_console

LOG_SECONDS = 10.0  # default of the smallest time between two lines in a file or pipe
GAP = 2  # spaces between two columns
BAR_WIDTHS = (20, 8)  # of the bar, in characters: at most, at least


class Layout(NamedTuple):
    """Parts of the live line, which always has the step, the training error and the ETA.

    Attributes:
      title: if True, the name of the run.
      bar: if True, the bar.
      loss: if True, the training loss.
      test: if True, the test error, and that of the average weights if the run has an average.
      speed: if True, the images per second.
      long: if True, 'training error 1.00%' instead of 'train 1.00%'.
    """

    title: bool = True
    bar: bool = True
    loss: bool = True
    test: bool = True
    speed: bool = True
    long: bool = True


# From the widest to the narrowest; the first one that fits is used.
LAYOUTS = (
    Layout(),
    Layout(long=False),
    Layout(long=False, loss=False),
    Layout(long=False, loss=False, title=False),
    Layout(long=False, loss=False, title=False, bar=False),
    Layout(long=False, loss=False, title=False, bar=False, speed=False),
    Layout(long=False, loss=False, title=False, bar=False, speed=False, test=False),
)


class TerminalWriter:
    """A live line with a progress bar on a terminal, lines elsewhere; both on standard error.

    The live line fits the width of the terminal: a narrow terminal shows fewer columns. Lines begin
    with the time, and that of a record comes at most every `log_seconds`. The first and the last
    record are always printed.
    """

    def __init__(
        self,
        title: str,
        num_steps: int,
        quiet: bool = False,
        log_seconds: float = LOG_SECONDS,
    ):
        """Prepares the live line; entering the context shows it.

        Args:
          title: name of the run.
          num_steps: total number of steps.
          quiet: if True, nothing is printed.
          log_seconds: smallest time between the lines of two records, in seconds.
        """
        self._console = make_console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        # The live lines of several threads would mix.
        is_main_thread = threading.current_thread() is threading.main_thread()
        self._title = printable(title)
        self._num_steps = num_steps
        self._log_seconds = log_seconds
        self._last_line_time = -float("inf")
        self._live = Progress(
            _LiveLine(self),
            console=self._console,
            refresh_per_second=REFRESHES_PER_SECOND,
            disable=quiet or not self._console.is_terminal or not is_main_thread,
        )
        self._task = self._live.add_task(self._title, total=num_steps)
        self._last_update_time = 0.0
        self._latest: Record = {}  # keeps test error and speed on the line between evaluations
        self._note = ""
        self.restart_clock(0)

    def __enter__(self) -> TerminalWriter:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def log(self, message: str) -> None:
        """Prints one line, above the live line if there is one, otherwise with the time."""
        if not self._console.is_terminal:
            now = datetime.datetime.now().isoformat(" ", "seconds")
            message = f"{now}  {message}"
        self._console.print(message)

    def restart_clock(self, step: int) -> None:
        """Restarts the estimate of the remaining time after `step` completed steps."""
        self._start_step, self._start_time = step, time.monotonic()
        self._step, self._step_time = step, self._start_time

    def is_due(self) -> bool:
        """Returns True if there is a live line that should be refreshed now."""
        elapsed = time.monotonic() - self._last_update_time
        return not self._live.disable and elapsed >= 1 / REFRESHES_PER_SECOND

    def update(self, step: int, record: Record | None = None, note: str = "") -> None:
        """Moves the progress bar.

        Args:
          step: number of completed steps.
          record: values to show beside the bar, in addition to earlier ones.
          note: text to show instead of the values.
        """
        self._latest |= record or {}
        self._last_update_time = time.monotonic()
        self._step, self._step_time, self._note = step, self._last_update_time, note
        self._live.update(self._task, completed=step)

    def write(self, record: Record) -> None:
        """Shows a record on the live line, or prints it as a line if there is no terminal."""
        step = int(record["step"])
        self.update(step, record)
        now = time.monotonic()
        is_due = now - self._last_line_time >= self._log_seconds or step == self._num_steps
        if not self._live.disable or not is_due:
            return
        self._last_line_time = now
        values = _values(self._latest, LAYOUTS[0])
        self.log("  ".join((self._title, f"step {self._position()}", *values, self._eta())))

    def line(self, width: int) -> RenderableType:
        """Returns the live line for a terminal of `width` characters."""
        for layout in LAYOUTS:
            title = [self._title] if layout.title else []
            columns = [*title, self._position(), *self.values(layout)]
            text_width = sum(map(len, columns)) + GAP * (len(columns) - 1)
            rest = width - text_width - GAP
            if rest >= (BAR_WIDTHS[1] if layout.bar else -GAP):
                break
        grid = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
        cells: list[RenderableType] = [Text(column, no_wrap=True) for column in columns]
        if layout.bar:
            bar = ProgressBar(self._num_steps, self._step, width=min(rest, BAR_WIDTHS[0]))
            cells.insert(len(title), bar)
        grid.add_row(*cells)
        # A terminal that is narrower than the last layout cuts off the end.
        return grid if layout.bar else Text((" " * GAP).join(columns)[:width], no_wrap=True)

    def values(self, layout: Layout = LAYOUTS[0]) -> list[str]:
        """Returns the newest values and the ETA, or the note if there is one."""
        if self._note:
            return [self._note]
        return [*_values(self._latest, layout), self._eta()]

    def _position(self) -> str:
        return f"{self._step}/{self._num_steps}"

    def _eta(self) -> str:
        done = self._step - self._start_step
        if done <= 0:
            return "ETA 0:00:00" if self._step == self._num_steps else "ETA -:--:--"
        seconds_per_step = (self._step_time - self._start_time) / done
        seconds = round(seconds_per_step * (self._num_steps - self._step))
        eta = datetime.timedelta(seconds=seconds)
        clock = str(datetime.timedelta(seconds=eta.seconds))
        return f"ETA {eta.days}d {clock[:-3]}" if eta.days else f"ETA {clock}"


class _LiveLine(ProgressColumn):
    """The whole live line as one column, because only it knows the width of all its parts."""

    def __init__(self, writer: TerminalWriter):
        super().__init__()
        self._writer = writer

    def render(self, task: Task) -> RenderableType:
        """Returns the line."""
        return self._writer.line(self._writer._console.width)


def _values(record: Record, layout: Layout) -> list[str]:
    """Returns the metrics of a record as text."""
    train, test = ("training error", "test error") if layout.long else ("train", "test")
    formats = [
        ("train_loss", "loss {:.4f}" if layout.loss else ""),
        ("train_error", train + " {:.2f}%"),
        ("test_error", test + " {:.2f}%" if layout.test else ""),
        ("ema_test_error", "EMA " + test + " {:.2f}%" if layout.test else ""),
        ("images_per_second", "{:,.0f} images/s" if layout.speed else ""),
    ]
    return [text.format(record[name]) for name, text in formats if text and name in record]
