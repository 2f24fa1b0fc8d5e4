"""Where metrics go: metrics.jsonl, TensorBoard, and the terminal."""

from __future__ import annotations

import datetime
import json
import os
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flaxres.errors import WorkdirError
from flaxres.workdir import METRICS_FILE, write_atomically

Record = dict[str, float]


def read_metrics(workdir: Path) -> list[Record]:
    """The records of `metrics.jsonl` in order; [] if there are none.

    A last line that a killed process left unfinished is left out.
    """
    try:
        lines = (workdir / METRICS_FILE).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


class MetricsFile:
    """Appends to `metrics.jsonl`: one JSON object a line, one line a logged step."""

    def __init__(self, workdir: Path, step: int):
        """Opens the file for a run that goes on after `step`; later lines are taken out."""
        self._path = workdir / METRICS_FILE
        try:
            kept = [json.dumps(r) + "\n" for r in read_metrics(workdir) if r["step"] <= step]
            write_atomically(self._path, "".join(kept))
            self._file = self._path.open("a")
        except (OSError, ValueError, KeyError) as error:
            raise WorkdirError(f"{self._path} cannot be opened: {error}") from error

    def write(self, record: Record) -> None:
        """Writes one line and hands it to the system, so that a killed process keeps it."""
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            raise WorkdirError(
                f"{self._path} cannot be written ({error.strerror}); "
                "make room and run the same command again"
            ) from error

    def sync(self) -> None:
        """Returns when the lines are on disk; a checkpoint must not be newer than they are."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardWriter:
    """The same records as TensorBoard scalars."""

    def __init__(self, workdir: Path, step: int):
        """Opens `tensorboard/`; events after `step` are taken as obsolete."""
        from tensorboardX import SummaryWriter  # slow to import, and free of TensorFlow

        self._writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, record: Record) -> None:
        """Adds each value of a record under its name."""
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(record["step"]))

    def close(self) -> None:
        """Writes what is pending."""
        self._writer.close()


class Terminal:
    """A live progress bar on a terminal, plain lines elsewhere; both on standard error."""

    def __init__(self, title: str, num_steps: int):
        """Shows a run called `title` of `num_steps` steps."""
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._title = title
        self._num_steps = num_steps
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=num_steps, note="")
        self._last: Record = {}  # test error and speed stay on the bar until there are newer ones
        self.restart_clock(0)

    def __enter__(self) -> Terminal:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """Prints one line, above the bar if there is one."""
        self._console.print(message, markup=False)

    def restart_clock(self, step: int) -> None:
        """Starts the estimate of the time left anew, with `step` steps done."""
        self._step, self._time = step, time.monotonic()
        self._bar.reset(self._task, completed=step)

    def update(self, step: int, record: Record | None = None, note: str = "") -> None:
        """Moves the bar to `step`, beside it the values of `record`, or a note."""
        self._last |= record or {}
        self._bar.update(self._task, completed=step, note=note or _show(self._last))

    def write(self, record: Record) -> None:
        """Shows a logged record: as a line of its own where there is no bar."""
        step = int(record["step"])
        self.update(step, record)
        if self._console.is_terminal:
            return
        seconds_per_step = (time.monotonic() - self._time) / max(1, step - self._step)
        left = datetime.timedelta(seconds=round(seconds_per_step * (self._num_steps - step)))
        self.say(f"{self._title}  step {step}/{self._num_steps}  {_show(record)}  ETA {left}")


class Writers:
    """All places where the records of a run go; a context manager."""

    def __init__(self, workdir: Path, step: int, terminal: Terminal):
        """Opens the files of `workdir` for a run that goes on after `step`."""
        self._file = MetricsFile(workdir, step)
        self._board = TensorBoardWriter(workdir, step)
        self._terminal = terminal

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._board.close()

    def write(self, record: Record) -> None:
        """Writes a record everywhere."""
        for writer in (self._file, self._board, self._terminal):
            writer.write(record)

    def sync(self) -> None:
        """Returns when metrics.jsonl is on disk."""
        self._file.sync()


def _show(record: Record) -> str:
    parts = (
        ("train_loss", "loss {:.4f}"),
        ("train_error", "train error {:.2f}%"),
        ("test_error", "test error {:.2f}%"),
        ("images_per_second", "{:,.0f} images/s"),
    )
    return "  ".join(form.format(record[name]) for name, form in parts if name in record)
