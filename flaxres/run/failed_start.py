"""Starts of a run that ended before its first checkpoint; another command may replace them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxres.errors import WorkdirError
from flaxres.parallel.replicas import replica_runs
from flaxres.run.checkpoint_files import (
    CHECKPOINTS_DIRECTORY,
    DAMAGED_DIRECTORY,
    checkpoint_steps,
    unknown_entries,
)
from flaxres.run.config_changes import CHANGES_FILE
from flaxres.run.data_record import DATA_FILE
from flaxres.run.info_file import INFO_FILE
from flaxres.run.input_spec import INPUT_SPEC_FILE
from flaxres.run.lock import lock
from flaxres.run.records import last_record
from flaxres.run.trackers import TRACKING_FILE
from flaxres.run.workdir import (
    CONFIG_FILE,
    LAYERS_FILE,
    METRICS_FILE,
    read_config,
    read_run_config,
)

# The config comes last: until it is moved, the directory is still recognized as a failed start.
FILES = (
    *(METRICS_FILE, LAYERS_FILE, "tensorboard", TRACKING_FILE, "wandb"),
    *(DATA_FILE, INPUT_SPEC_FILE, CHANGES_FILE, INFO_FILE, CONFIG_FILE),
)

EMPTY_EVENTS = 200  # bytes; an event file without values has about 60


def max_steps_without_checkpoint(config: Mapping[str, Any]) -> int:
    """Returns the largest step with a record that a run without a checkpoint can have.

    A killed run may have started two saves and finished neither.

    Args:
      config: fields of the config by dotted name.
    """
    return int(2 * config["checkpoint_every"] + config["log_every"])


def is_failed_start(workdir: Path) -> bool:
    """Returns True if a workdir holds a run that has ended, or will, without any checkpoint.

    It has no more records than can precede the first checkpoint, and no checkpoint was removed.

    Args:
      workdir: directory of a run, with a config.

    Raises:
      DamagedFileError: the config or the last record cannot be read.
      CheckpointError: the directory of the checkpoints cannot be read.
    """
    config = read_config(workdir)
    if checkpoint_steps(workdir) or unknown_entries(workdir):
        return False
    if os.path.lexists(workdir / DAMAGED_DIRECTORY):
        return False
    if any(_has_own_run(replica) for replica in replica_runs(read_run_config(workdir), workdir)):
        return False
    record = last_record(workdir)
    if record is None:
        return True
    # The directory of the checkpoints is made before the first record.
    has_directory = os.path.lexists(workdir / CHECKPOINTS_DIRECTORY)
    return has_directory and record["step"] <= max_steps_without_checkpoint(config)


def replace_failed_start(workdir: Path) -> str:
    """Moves the files of a failed start into failed-start-N, or removes them if it has no records.

    Files of other programs in tensorboard/ and wandb/ are moved too.

    Args:
      workdir: directory of the run; locked meanwhile.

    Returns:
      One line on the failed start, and on where its records are.

    Raises:
      InUseError: another process trains in the workdir.
      WorkdirError: the run has a checkpoint by now, or a file cannot be moved.
    """
    try:
        with lock(workdir):
            if not is_failed_start(workdir):
                raise WorkdirError(
                    f"workdir {workdir} has got a checkpoint meanwhile; choose another --workdir"
                )
            return _replace(workdir)
    except OSError as error:
        raise WorkdirError(
            f"workdir {workdir} cannot be written ({error.strerror}); choose another --workdir"
        ) from error


def _replace(workdir: Path) -> str:
    record = last_record(workdir)
    replicas = [*replica_runs(read_run_config(workdir), workdir)]
    if record is None and not any(map(_has_foreign_files, (*replicas, workdir))):
        for directory in (*replicas, workdir):
            _remove_files(directory)
        return f"{workdir}: replaced a start without a checkpoint and without records"
    numbers = range(1, len(os.listdir(workdir)) + 2)
    names = (workdir / f"failed-start-{number}" for number in numbers)
    target = next(path for path in names if not os.path.lexists(path))
    target.mkdir()
    for replica in replicas:
        if replica.is_dir():
            # Another name than seed-N, which would be the name of a run.
            replica.rename(target / replica.name.replace("seed", "replica"))
    for name in FILES:
        with contextlib.suppress(FileNotFoundError):
            (workdir / name).rename(target / name)
    kept = f"records up to step {record['step']:,}" if record else "files"
    return f"{workdir}: replaced a start without a checkpoint; its {kept} are kept in {target.name}"


def _has_own_run(replica: Path) -> bool:
    """Returns True if the directory of a replica holds a run with checkpoints of its own."""
    return os.path.lexists(replica / CHECKPOINTS_DIRECTORY)


def _has_foreign_files(directory: Path) -> bool:
    """Returns True if tensorboard/ or wandb/ hold more than the start of an event file."""
    return any(
        not path.name.startswith("events.out.tfevents.") or path.lstat().st_size > EMPTY_EVENTS
        for name in ("tensorboard", "wandb")
        for path in (directory / name).rglob("*")
    )


def _remove_files(directory: Path) -> None:
    for name in FILES:
        path = directory / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
