"""Metric writers: metrics.jsonl and TensorBoard files.

`MetricWriters` opens the files of a run; `flaxres.run.records` reads them back,
`flaxres.run.terminal_writer` shows the metrics on the terminal, and `flaxres.run.trackers` sends
them to Weights & Biases and MLflow.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from flaxres.errors import WorkdirError
from flaxres.files import open_regular
from flaxres.parallel.multihost import is_main_process
from flaxres.run.records import Record, records_from_end
from flaxres.run.tensorboard_files import EventFile
from flaxres.run.trackers import TRACKERS, TrackerWriter
from flaxres.run.workdir import LAYERS_FILE, METRICS_FILE


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

    def close(self, failed: bool = False) -> None:
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

    def close(self, failed: bool = False) -> None:
        """Closes the file."""
        self._file.close()


Writer = JsonLinesWriter | TensorBoardWriter | TrackerWriter


def _open_writers(workdir: Path, config: ConfigDict | None, step: int) -> Iterator[Writer]:
    """Yields the writers of a workdir, metrics.jsonl first, which trackers read."""
    names = ("tensorboard",) if config is None else config.metric_writers
    yield JsonLinesWriter(workdir, step)
    if "tensorboard" in names:
        yield TensorBoardWriter(workdir, step)
    for name in TRACKERS:
        if config is not None and name in names:
            yield TrackerWriter(name, workdir, config)


class MetricWriters:
    """Context that holds the metric files of a run and of its replicas.

    All methods raise a WorkdirError if a file cannot be written.
    """

    def __init__(
        self,
        workdirs: Sequence[Path],
        step: int,
        layers: bool = False,
        configs: Sequence[ConfigDict] = (),
    ):
        """Opens the files of a run that resumes after `step`.

        In a run of several processes, only the main process has files.

        Args:
          workdirs: directory of the run, then those of its replicas if it has several.
          step: number of completed steps.
          layers: if True, opens a file for layer statistics too.
          configs: config of each workdir, whose `metric_writers` are opened; empty: TensorBoard.
        """
        self._workdir = workdirs[0]
        self._files: list[list[Writer]] = []
        self._layer_files: list[JsonLinesWriter] = []
        if is_main_process():
            try:
                self._open(workdirs, step, layers, configs)
            except BaseException:
                self._close(failed=True)
                raise

    def _open(
        self, workdirs: Sequence[Path], step: int, layers: bool, configs: Sequence[ConfigDict]
    ) -> None:
        with self._as_workdir_error():
            for workdir, config in itertools.zip_longest(workdirs, configs):
                self._files.append([])
                for writer in _open_writers(workdir, config, step):
                    self._files[-1].append(writer)
            if layers:
                # A run that starts at step 0 writes the layer statistics of step 0 again.
                self._layer_files.append(JsonLinesWriter(self._workdir, step or -1, LAYERS_FILE))

    def __enter__(self) -> MetricWriters:
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        self._close(failed=exception_type is not None)

    def _close(self, failed: bool) -> None:
        for file in self._all_files():
            with contextlib.suppress(OSError) if failed else self._as_workdir_error():
                file.close(failed)

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

    def _all_files(self) -> Iterator[Writer]:
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
