"""Fingerprint of the data that a run is trained on, kept in data.json in its workdir.

`check_data` compares the current data with it before a run resumes, and `RunData.store` writes it.
`report_changed_data` compares them for programs that read a trained model and its data.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from flaxres.data import Sources
from flaxres.data.fingerprint import Fingerprint
from flaxres.data.fingerprint_differences import (
    describe_differences,
    describe_labels,
    join_differences,
)
from flaxres.errors import DamagedFileError, DataChangedError, WorkdirError, one_line, printable
from flaxres.files import read_regular, write_atomically
from flaxres.run.input_spec import INPUT_SPEC_FILE, InputSpec, read_input_spec, store_input_spec

DATA_FILE = "data.json"


@dataclasses.dataclass(frozen=True)
class DataChange:
    """A change of the data that --allow_data_change accepted.

    Attributes:
      step: number of steps done with the data before the change.
      time: date and time at which the run resumed with the new data, ISO 8601.
      differences: the differences in words.
      before: fingerprint of the data before the change.
    """

    step: int
    time: str
    differences: tuple[str, ...]
    before: Fingerprint


@dataclasses.dataclass(frozen=True)
class DataRecord:
    """Content of data.json.

    Attributes:
      recorded_at_step: number of steps done when the run first recorded its data; above 0 if an
        older version of flaxres began it.
      fingerprint: fingerprint of the data since the last change.
      changes: changes of the data, in order.
    """

    recorded_at_step: int
    fingerprint: Fingerprint
    changes: tuple[DataChange, ...] = ()


@dataclasses.dataclass(frozen=True)
class RunData:
    """The current data of a run, compared with the data recorded in its workdir.

    Attributes:
      fingerprint: fingerprint of the current data.
      record: content of data.json; None without the file.
      before: the recorded fingerprint; None if the workdir has none.
      differences: differences between the two fingerprints, in words.
    """

    fingerprint: Fingerprint
    record: DataRecord | None
    before: Fingerprint | None
    differences: tuple[str, ...]

    def accepted_change(self) -> str | None:
        """Returns one line on the accepted differences, or None if there are none."""
        if not self.differences:
            return None
        # The labels, which come last, must not be cut off.
        differences = join_differences(self.differences[:-1])
        return "; ".join(filter(None, (differences, self.differences[-1])))

    def store(
        self,
        workdir: Path,
        config: ConfigDict,
        step: int,
        mean_image: Callable[[], Float[np.ndarray, "height width channels"]],
    ) -> None:
        """Writes data.json and inputs.npz, if they do not exist or the data have changed.

        A data.json of an older version of flaxres also gains the samples of unchanged data.

        Changed data have a different mean image, and perhaps different class names. The former file
        is kept as inputs-before-step-N.npz.

        Args:
          workdir: directory of the run, which this process has locked.
          config: config of the run.
          step: number of steps done.
          mean_image: returns the mean image of the current data, float32 (height, width, channels)
            in 0..1.

        Raises:
          UserError: a file cannot be written, or the mean image cannot be computed.
        """
        former = workdir / INPUT_SPEC_FILE
        try:
            if self.differences and former.exists():
                former.replace(former.with_stem(f"{former.stem}-before-step-{step}"))
            store_input_spec(workdir, config, mean_image)
            self._store_record(workdir / DATA_FILE, step)
        except OSError as error:
            raise WorkdirError(
                f"workdir {workdir} cannot be written ({error.strerror}); free space or make it "
                "writable"
            ) from error

    def _store_record(self, path: Path, step: int) -> None:
        record = self.record or DataRecord(step, self.fingerprint)
        if self.before is not None and self.differences:
            now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            change = DataChange(step, now, self.differences, self.before)
            changes = (*record.changes, change)
            record = dataclasses.replace(record, fingerprint=self.fingerprint, changes=changes)
        else:
            fingerprint = record.fingerprint.with_samples_of(self.fingerprint)
            record = dataclasses.replace(record, fingerprint=fingerprint)
        if record != self.record:
            write_atomically(path, msgspec.json.encode(record) + b"\n")


def read_data_record(workdir: Path) -> DataRecord | None:
    """Reads data.json; returns None if it does not exist.

    Raises:
      WorkdirError: the file cannot be read.
    """
    path = workdir / DATA_FILE
    try:
        return msgspec.json.decode(read_regular(path), type=DataRecord)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DamagedFileError:
    reason = getattr(error, "strerror", None) or one_line(error)
    return DamagedFileError(
        f"{path} cannot be read ({reason}); restore it, or remove it to adopt the current data"
    )


def check_data(
    workdir: Path, config: ConfigDict, sources: Sources, allow_change: bool = False
) -> RunData:
    """Compares the data of a run with the data recorded in its workdir, without writing.

    A workdir of an older version of flaxres has no data.json; its class names are read from
    inputs.npz.

    Args:
      workdir: directory of the run; need not exist.
      config: config of the run.
      sources: the opened data.
      allow_change: if True, the run may resume with changed data.

    Raises:
      DataChangedError: the data have changed and `allow_change` is False, or the model does not fit
        the new classes.
      WorkdirError: data.json or inputs.npz is damaged.
    """
    record, input_spec = read_data_record(workdir), _read_input_spec(workdir, config)
    before = record.fingerprint if record else None
    if before is None and input_spec is not None and not config.dataset.classes:
        before = Fingerprint("", tuple(map(printable, input_spec.class_names)))
    current = sources.fingerprint
    differences = _differences(workdir, before, current)
    labels = None if before is None else describe_labels(before, current, _classes(config))
    if differences and not allow_change:
        advice = (
            f"{labels}. Restore the data, or choose another --workdir; --allow_data_change "
            "continues with the new labels"
            if labels
            else "restore the data, choose another --workdir, or continue with these data with "
            "--allow_data_change"
        )
        raise DataChangedError(
            f"the data of {workdir} have changed: {join_differences(differences)}; {advice}"
        )
    num_classes = sources.num_classes if input_spec is None else input_spec.num_classes
    if num_classes != sources.num_classes:
        raise DataChangedError(
            f"the model in {workdir} has {num_classes} classes, but its data now have "
            f"{sources.num_classes} ({join_differences(differences) or 'see inputs.npz'}); restore "
            f"the data, or train another --workdir with --init_from={workdir} and "
            "--config.transfer.new_head=True"
        )
    return RunData(current, record, before, (*differences, *([labels] if labels else [])))


def _classes(config: ConfigDict) -> tuple[str, ...]:
    return tuple(map(printable, config.dataset.classes))


def _read_input_spec(workdir: Path, config: ConfigDict) -> InputSpec | None:
    """Reads inputs.npz; returns None if it does not exist."""
    return read_input_spec(workdir, config) if (workdir / INPUT_SPEC_FILE).exists() else None


def _differences(workdir: Path, before: Fingerprint | None, current: Fingerprint) -> list[str]:
    if before is None:
        return []
    try:
        return describe_differences(before, current)
    except ValueError as error:
        raise _damaged(workdir / DATA_FILE, error) from error


def check_image_shape(workdir: Path, config: ConfigDict, image_shape: tuple[int, int, int]) -> None:
    """Checks that the images have the same shape as when the run began.

    Args:
      workdir: directory of the run; need not exist.
      config: config of the run.
      image_shape: (height, width, channels) of the current images.

    Raises:
      DataChangedError: the shape differs.
    """
    input_spec = _read_input_spec(workdir, config)
    if input_spec is not None and input_spec.image_shape != image_shape:
        shapes = [" x ".join(map(str, shape)) for shape in (image_shape, input_spec.image_shape)]
        raise DataChangedError(
            f"the images of {workdir} are now {shapes[0]} (height, width, channels) instead of "
            f"{shapes[1]}; restore the data, or choose another --workdir"
        )


def report_changed_data(
    workdir: Path, class_names: Sequence[str], sources: Sources, log: Callable[[str], None]
) -> None:
    """Logs the differences between the current data and the data that a run was trained on.

    Args:
      workdir: directory of the run, or a file of weights, which records only its classes.
      class_names: names of the classes that the run was trained on, ordered by label.
      sources: the opened data.
      log: receives one line if the data differ.

    Raises:
      DataChangedError: the classes differ, so that labels have other meanings.
      WorkdirError: data.json is damaged.
    """
    record = read_data_record(workdir) if workdir.is_dir() else None
    before = record.fingerprint if record else None
    differences = _differences(workdir, before, sources.fingerprint)
    if tuple(class_names) != sources.class_names:
        trained, current = (
            Fingerprint("", tuple(map(printable, names)))
            for names in (class_names, sources.class_names)
        )
        differences = differences or describe_differences(trained, current)
        raise DataChangedError(
            f"the model in {workdir} was trained on other classes than those of data set "
            f"{sources.name!r}: {join_differences(differences)}; restore the data"
        )
    if differences:
        log(
            f"The data differ from those that {workdir} was trained on: "
            f"{join_differences(differences)}."
        )
