"""Metric writers: metrics.jsonl and TensorBoard files, and the progress bar on the terminal.

`MetricWriters` opens the files of a run; `flaxres.run.records` reads them back.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.progress import MofNCompleteColumn, TextColumn

from flaxres.errors import WorkdirError
from flaxres.files import open_regular
from flaxres.parallel.multihost import is_main_process
from flaxres.run.records import Record, records_from_end
from flaxres.run.tensorboard_files import EventFile
from flaxres.run.workdir import LAYERS_FILE, METRICS_FILE
from flaxres.terminal import REFRESHES_PER_SECOND, make_console, make_progress_bar


class JsonLinesWriter:
    """Writer of `metrics.jsonl` or a similar file: one JSON object per line and logged step."""

    def __init__(self, workdir: Path, step: int, name: str = METRICS_FILE):
        """Opens the file for a run that resumes after `step`, and removes the lines of later steps.

        Only these lines are read, so a long file opens quickly.

        Args:
          workdir: directory of the run.
          step: number of completed steps.
          name: name of the file.

        Raises:
          DamagedFileError: a line is no record, or the file is no regular file.
          OSError: the file cannot be written.
        """
        path = workdir / name
        earlier = (end for end, record in records_from_end(workdir, name) if record["step"] <= step)
        size = next(earlier, 0)
        if path.is_file() and path.stat().st_nlink > 1:
            _copy_on_write(path)  # other names of the file keep its content
        descriptor = open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._file = os.fdopen(descriptor, "ab", buffering=0)  # a kill loses no written line
        self._file.truncate(size)

    def write(self, record: Mapping[str, object]) -> None:
        """Writes one line."""
        self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")

    def sync(self) -> None:
        """Waits until the lines are on disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _copy_on_write(path: Path) -> None:
    """Replaces a link to a file by a file of the same content."""
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        shutil.copyfile(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class TensorBoardWriter:
    """Writer of records as TensorBoard scalars."""

    def __init__(self, workdir: Path, step: int):
        """Opens a file in `tensorboard/` for a run that resumes after `step`.

        Args:
          workdir: directory of the run.
          step: number of completed steps.
        """
        directory = workdir / "tensorboard"
        directory.mkdir(exist_ok=True)
        self._file = EventFile(directory)
        self._file.write_restart(step + 1)

    def write(self, record: Record) -> None:
        """Writes each value of a record as a scalar of the same name."""
        scalars = {name: value for name, value in record.items() if name != "step"}
        self._file.write_scalars(int(record["step"]), scalars)

    def sync(self) -> None:
        """Does nothing: metrics.jsonl holds the same records."""

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TerminalWriter:
    """A live progress bar on a terminal, plain lines elsewhere; both on standard error."""

    def __init__(self, title: str, num_steps: int, quiet: bool = False):
        """Prepares the progress bar; entering the context shows it.

        Args:
          title: name of the run.
          num_steps: total number of steps.
          quiet: if True, nothing is printed.
        """
        self._console = make_console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        self._title = title
        self._num_steps = num_steps
        self._bar = make_progress_bar(
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            disable=quiet,
            transient=False,
        )
        self._task = self._bar.add_task(title, total=num_steps, note="")
        self._last_update_time = 0.0
        self._latest: Record = {}  # keeps test error and speed on the bar between evaluations
        self.restart_clock(0)

    def __enter__(self) -> TerminalWriter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def log(self, message: str) -> None:
        """Prints one line, above the progress bar if there is one."""
        self._console.print(message)

    def restart_clock(self, step: int) -> None:
        """Restarts the estimate of the remaining time after `step` completed steps."""
        self._start_step, self._start_time = step, time.monotonic()
        self._bar.reset(self._task, completed=step)

    def is_due(self) -> bool:
        """Returns True if there is a progress bar that should be refreshed now."""
        elapsed = time.monotonic() - self._last_update_time
        return not self._bar.disable and elapsed >= 1 / REFRESHES_PER_SECOND

    def update(self, step: int, record: Record | None = None, note: str = "") -> None:
        """Moves the progress bar.

        Args:
          step: number of completed steps.
          record: values to show beside the bar, in addition to earlier ones.
          note: text to show instead of the values.
        """
        self._latest |= record or {}
        self._last_update_time = time.monotonic()
        self._bar.update(self._task, completed=step, note=note or _format_record(self._latest))

    def write(self, record: Record) -> None:
        """Shows a record on the progress bar, or prints it as a line if there is no terminal."""
        step = int(record["step"])
        self.update(step, record)
        if not self._bar.disable:
            return
        elapsed = time.monotonic() - self._start_time
        seconds_per_step = elapsed / max(1, step - self._start_step)
        eta = datetime.timedelta(seconds=round(seconds_per_step * (self._num_steps - step)))
        self.log(
            f"{self._title}  step {step}/{self._num_steps}  {_format_record(record)}  ETA {eta}"
        )


class MetricWriters:
    """Context that holds the metric files of a run and of its replicas.

    All methods raise a WorkdirError if a file cannot be written.
    """

    def __init__(self, workdirs: Sequence[Path], step: int, layers: bool = False):
        """Opens the files of a run that resumes after `step`.

        In a run of several processes, only the main process has files.

        Args:
          workdirs: directory of the run, then those of its replicas if it has several.
          step: number of completed steps.
          layers: if True, opens a file for layer statistics too.
        """
        self._workdir = workdirs[0]
        self._files: list[list[JsonLinesWriter | TensorBoardWriter]] = []
        self._layer_files: list[JsonLinesWriter] = []
        if is_main_process():
            with self._as_workdir_error():
                for workdir in workdirs:
                    self._files.append(
                        [JsonLinesWriter(workdir, step), TensorBoardWriter(workdir, step)]
                    )
                if layers:
                    # A run that starts at step 0 writes the layer statistics of step 0 again.
                    self._layer_files.append(
                        JsonLinesWriter(self._workdir, step or -1, LAYERS_FILE)
                    )

    def __enter__(self) -> MetricWriters:
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        for file in self._all_files():
            with contextlib.suppress(OSError) if exception_type else self._as_workdir_error():
                file.close()

    def write(self, records: Sequence[Record]) -> None:
        """Writes one record to each workdir."""
        with self._as_workdir_error():
            for files, record in zip(self._files, records, strict=False):
                for file in files:
                    file.write(record)

    def sync(self) -> None:
        """Waits until the records are on disk."""
        with self._as_workdir_error():
            for file in self._all_files():
                file.sync()

    def write_layers(self, record: Mapping[str, object]) -> None:
        """Writes a record of layer statistics (`flaxres.training.layer_statistics`)."""
        with self._as_workdir_error():
            for file in self._layer_files:
                file.write(record)

    def _all_files(self) -> Iterator[JsonLinesWriter | TensorBoardWriter]:
        return itertools.chain(self._layer_files, *self._files)

    @contextlib.contextmanager
    def _as_workdir_error(self) -> Iterator[None]:
        """Context in which an OSError becomes a WorkdirError."""
        try:
            yield
        except OSError as error:
            raise WorkdirError(
                f"metrics in {self._workdir} cannot be written ({error.strerror}); "
                "free disk space and rerun the same command"
            ) from error


def _format_record(record: Record) -> str:
    formats = (
        ("train_loss", "loss {:.4f}"),
        ("train_error", "training error {:.2f}%"),
        ("test_error", "test error {:.2f}%"),
        ("images_per_second", "{:,.0f} images/s"),
    )
    return "  ".join(text.format(record[name]) for name, text in formats if name in record)
