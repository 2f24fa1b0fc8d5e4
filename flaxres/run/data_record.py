"""Fingerprint of the data that a run is trained on, kept in data.json in its workdir.

`check_data` compares the present data with it before a run resumes, and `RunData.store` writes it.
`report_changed_data` compares them for programs that read a trained model and its data.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
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
from flaxres.files import open_regular, write_atomically
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
      fingerprint: the data since the last change.
      changes: changes of the data, in order.
    """

    recorded_at_step: int
    fingerprint: Fingerprint
    changes: tuple[DataChange, ...] = ()


@dataclasses.dataclass(frozen=True)
class RunData:
    """The present data of a run, compared with those that its workdir has recorded.

    Attributes:
      fingerprint: the present data.
      record: content of data.json; None without the file.
      before: the recorded data; None if nothing is known about them.
      differences: differences between them in words.
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

        Changed data have another mean image, and perhaps other names of classes. The former file
        remains as inputs-before-step-N.npz.

        Args:
          workdir: directory of the run, which this process has locked.
          config: config of the run.
          step: number of steps done.
          mean_image: returns the mean image of the present data, float32 (height, width, channels)
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
        if record != self.record:
            write_atomically(path, msgspec.json.encode(record) + b"\n")


def read_data_record(workdir: Path) -> DataRecord | None:
    """Reads data.json; returns None if it does not exist.

    Raises:
      WorkdirError: the file cannot be read.
    """
    path = workdir / DATA_FILE
    try:
        with open(open_regular(path, os.O_RDONLY), "rb") as file:
            return msgspec.json.decode(file.read(), type=DataRecord)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DamagedFileError:
    reason = getattr(error, "strerror", None) or one_line(error)
    return DamagedFileError(
        f"{path} cannot be read ({reason}); restore it, or remove it to take the present "
        "data for those of the run"
    )


def check_data(
    workdir: Path, config: ConfigDict, sources: Sources, allow_change: bool = False
) -> RunData:
    """Compares the data of a run with those that its workdir has recorded; writes nothing.

    A workdir of an older version of flaxres has no data.json. Its class names are known from
    inputs.npz.

    Args:
      workdir: directory of the run; need not exist.
      config: config of the run.
      sources: the opened data.
      allow_change: if True, the run may resume with other data.

    Raises:
      DataChangedError: the data have changed and `allow_change` is False, or the model does not fit
        the new classes.
      WorkdirError: data.json or inputs.npz is damaged.
    """
    record, input_spec = read_data_record(workdir), _read_input_spec(workdir, config)
    before = record.fingerprint if record else None
    if before is None and input_spec is not None and not config.dataset.classes:
        before = Fingerprint("", tuple(map(printable, input_spec.class_names)))
    present = sources.fingerprint
    differences = _differences(workdir, before, present)
    labels = None if before is None else describe_labels(before, present, _classes(config))
    if differences and not allow_change:
        advice = (
            f"{labels}. Restore the data, or choose another --workdir; --allow_data_change trains "
            "on with the new labels"
            if labels
            else "restore the data, choose another --workdir, or continue with these data by "
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
    return RunData(present, record, before, (*differences, *([labels] if labels else [])))


def _classes(config: ConfigDict) -> tuple[str, ...]:
    return tuple(map(printable, config.dataset.classes))


def _read_input_spec(workdir: Path, config: ConfigDict) -> InputSpec | None:
    """Reads inputs.npz; returns None if it does not exist."""
    return read_input_spec(workdir, config) if (workdir / INPUT_SPEC_FILE).exists() else None


def _differences(workdir: Path, before: Fingerprint | None, present: Fingerprint) -> list[str]:
    if before is None:
        return []
    try:
        return describe_differences(before, present)
    except ValueError as error:
        raise _damaged(workdir / DATA_FILE, error) from error


def check_image_shape(workdir: Path, config: ConfigDict, image_shape: tuple[int, int, int]) -> None:
    """Checks that the images still have the shape with which a run began.

    Args:
      workdir: directory of the run; need not exist.
      config: config of the run.
      image_shape: (height, width, channels) of the present images.

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
    """Logs how the data differ from those that a run was trained on, if they do.

    Args:
      workdir: directory of the run.
      class_names: names of the classes that the run was trained on, ordered by label.
      sources: the opened data.
      log: receives the line.

    Raises:
      DataChangedError: the classes differ, so that labels have other meanings.
      WorkdirError: data.json is damaged.
    """
    record = read_data_record(workdir)
    before = record.fingerprint if record else None
    differences = _differences(workdir, before, sources.fingerprint)
    if tuple(class_names) != sources.class_names:
        trained, present = (
            Fingerprint("", tuple(map(printable, names)))
            for names in (class_names, sources.class_names)
        )
        differences = differences or describe_differences(trained, present)
        raise DataChangedError(
            f"the model in {workdir} was trained on other classes than those of data set "
            f"{sources.name!r}: {join_differences(differences)}; restore the data"
        )
    if differences:
        log(
            f"The data differ from those that {workdir} was trained on: "
            f"{join_differences(differences)}."
        )
