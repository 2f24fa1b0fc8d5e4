"""Where metrics go: metrics.jsonl, TensorBoard, and the terminal."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, TextColumn
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

from flaxres.errors import WorkdirError
from flaxres.parallel.multihost import is_main_process
from flaxres.run.workdir import LAYERS_FILE, METRICS_FILE, write_atomically
from flaxres.terminal import REFRESHES_PER_SECOND, make_progress_bar

Record = dict[str, float]


def read_metrics(workdir: Path, name: str = METRICS_FILE) -> list[Record]:
    """The records of `metrics.jsonl`, or of another such file, in order; [] if there are none.

    A last line that a killed process left unfinished is left out.

    Raises:
      WorkdirError: a line is not a record, or the file cannot be read.
    """
    path = workdir / name
    records = []
    try:
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                record = json.loads(line)
                record["step"] += 0  # it has a step, and that is a number
                records.append(record)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise WorkdirError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        raise WorkdirError(f"{path}, line {len(records) + 1}, is not a record of metrics") from None
    return records


class JsonLinesWriter:
    """Appends to `metrics.jsonl`, or such a file: one JSON object a line, a line a logged step."""

    def __init__(self, workdir: Path, step: int, name: str = METRICS_FILE):
        """Opens the file for a run that goes on after `step`; later lines are taken out."""
        path = workdir / name
        kept = [json.dumps(r) + "\n" for r in read_metrics(workdir, name) if r["step"] <= step]
        write_atomically(path, "".join(kept))
        self._file = path.open("ab", buffering=0)  # a killed process keeps what it wrote

    def write(self, record: Mapping[str, object]) -> None:
        """Writes one line."""
        self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")

    def sync(self) -> None:
        """Returns when the lines are on disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardWriter:
    """The same records as scalars for TensorBoard."""

    def __init__(self, workdir: Path, step: int):
        """Opens a file in `tensorboard/` for a run that goes on after `step`."""
        # Not tensorboardX's SummaryWriter: its thread dies, and hangs the run, on a full disk.
        directory = workdir / "tensorboard"
        directory.mkdir(exist_ok=True)
        self._file = EventsWriter(str(directory / "events"))
        restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        # TensorBoard takes this as: what other files say of later steps is void.
        self._write(event_pb2.Event(step=step + 1, session_log=restart))

    def write(self, record: Record) -> None:
        """Adds each value of a record under its name."""
        values = [
            summary_pb2.Summary.Value(tag=name, simple_value=value)
            for name, value in record.items()
            if name != "step"
        ]
        summary = summary_pb2.Summary(value=values)
        self._write(event_pb2.Event(step=int(record["step"]), summary=summary))

    def sync(self) -> None:
        """Nothing to do: what is lost of this file is in metrics.jsonl."""

    def _write(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        self._file.write_event(event)
        # Not the flush of EventsWriter, which waits until the record is on disk.
        self._file._py_recordio_writer._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TerminalWriter:
    """A live progress bar on a terminal, plain lines elsewhere; both on standard error."""

    def __init__(self, title: str, num_steps: int, quiet: bool = False):
        """Shows a run called `title` of `num_steps` steps; nothing at all if `quiet`."""
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        self._title = title
        self._num_steps = num_steps
        self._bar = make_progress_bar(
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=quiet,
            transient=False,
        )
        self._task = self._bar.add_task(title, total=num_steps, note="")
        self._moved = 0.0
        self._last: Record = {}  # test error and speed stay on the bar until there are newer ones
        self.restart_clock(0)

    def __enter__(self) -> TerminalWriter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def log(self, message: str) -> None:
        """Prints one line, above the bar if there is one."""
        self._console.print(message, markup=False)

    def restart_clock(self, step: int) -> None:
        """Starts the estimate of the time left anew, with `step` steps done."""
        self._step, self._time = step, time.monotonic()
        self._bar.reset(self._task, completed=step)

    def is_due(self) -> bool:
        """Whether there is a bar, and time for it to move."""
        return not self._bar.disable and time.monotonic() - self._moved >= 1 / REFRESHES_PER_SECOND

    def update(self, step: int, record: Record | None = None, note: str = "") -> None:
        """Moves the bar to `step`, beside it the values of `record`, or a note."""
        self._last |= record or {}
        self._moved = time.monotonic()
        self._bar.update(self._task, completed=step, note=note or _show(self._last))

    def write(self, record: Record) -> None:
        """Shows a logged record: as a line of its own where there is no bar."""
        step = int(record["step"])
        self.update(step, record)
        if self._console.is_terminal:
            return
        seconds_per_step = (time.monotonic() - self._time) / max(1, step - self._step)
        left = datetime.timedelta(seconds=round(seconds_per_step * (self._num_steps - step)))
        self.log(f"{self._title}  step {step}/{self._num_steps}  {_show(record)}  ETA {left}")


class MetricWriters:
    """The files where the records of a run and its replicas go; a context manager.

    All its methods raise a WorkdirError where a file cannot be written.
    """

    def __init__(self, workdirs: Sequence[Path], step: int, layers: bool = False):
        """Opens the files of a run that goes on after `step`.

        Of several processes, only the first has files.

        Args:
          workdirs: of the run, then of its replicas if it has several.
          step: steps done.
          layers: there will be records of layers.
        """
        self._workdir = workdirs[0]
        self._files: list[list[JsonLinesWriter | TensorBoardWriter]] = []
        self._layers: list[JsonLinesWriter] = []
        if is_main_process():
            with self._writing():
                for workdir in workdirs:
                    self._files.append(
                        [JsonLinesWriter(workdir, step), TensorBoardWriter(workdir, step)]
                    )
                if layers:  # there is one of step 0 too, written before that step
                    self._layers.append(JsonLinesWriter(self._workdir, step or -1, LAYERS_FILE))

    def __enter__(self) -> MetricWriters:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        for file in self._all():
            with contextlib.suppress(OSError) if kind else self._writing():
                file.close()

    def write(self, records: Sequence[Record]) -> None:
        """Writes a record for each of the workdirs."""
        with self._writing():
            for files, record in zip(self._files, records, strict=False):
                for file in files:
                    file.write(record)

    def sync(self) -> None:
        """Returns when the records are on disk."""
        with self._writing():
            for file in self._all():
                file.sync()

    def write_layers(self, record: Mapping[str, object]) -> None:
        """Writes a record of layers; see `flaxres.training.layer_statistics`."""
        with self._writing():
            for file in self._layers:
                file.write(record)

    def _all(self) -> Iterator[JsonLinesWriter | TensorBoardWriter]:
        return itertools.chain(self._layers, *self._files)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WorkdirError(
                f"metrics in {self._workdir} cannot be written ({error.strerror}); "
                "make room and run the same command again"
            ) from error


def _show(record: Record) -> str:
    parts = (
        ("train_loss", "loss {:.4f}"),
        ("train_error", "train error {:.2f}%"),
        ("test_error", "test error {:.2f}%"),
        ("images_per_second", "{:,.0f} images/s"),
    )
    return "  ".join(form.format(record[name]) for name, form in parts if name in record)
