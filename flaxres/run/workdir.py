"""Workdir of a run: its config, its info, and the lock on it.

`open_workdir` creates or reopens a workdir for training; the other functions read one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flaxres.config import directory_name, flatten, model_name
from flaxres.errors import DamagedFileError, WorkdirError, first_few
from flaxres.field_checks import shown
from flaxres.files import check_regular, remove_temporary_files, write_atomically
from flaxres.run.checkpoint_files import checkpoint_steps
from flaxres.run.config_changes import ConfigChange, append_config_change
from flaxres.run.info_file import INFO_FILE, read_info, write_info
from flaxres.run.lock import LockedDirectory, lock
from flaxres.run.paths import check_path
from flaxres.run.schemas import read_document
from flaxres.run.stored_config import make_config, stored_fields

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
LAYERS_FILE = "layers.jsonl"

MAX_DIFFERENCES = 3  # fields in a message

# Fields that may differ when a run resumes, because its results do not depend on them.
CHANGEABLE_FIELDS = (
    *("name", "dataset.data_dir", "checkpoint_every", "keep_checkpoints", "log_layers_every"),
    "metric_writers",
    # Results depend on the following fields only through rounding, and on the number of devices
    # also if batch norm is per device.
    *("eval_batch_size", "steps_per_dispatch", "parallelism", "num_devices", "model.remat"),
    *("model.scan", "dataset.workers", "dataset.prefetch", "dataset.stream_gib"),
)


def default_workdir(config: ConfigDict) -> Path:
    """Returns runs/NAME/MODEL-seedSEED.

    Raises:
      ConfigError: NAME is not the name of one directory.
    """
    name = directory_name(config)
    return Path("runs") / name / f"{model_name(config.model)}-seed{config.seed}"


@contextlib.contextmanager
def open_workdir(
    workdir: Path,
    config: ConfigDict,
    info: Mapping[str, Any],
    change: ConfigChange | None = None,
    step: int | Callable[[], int] | None = None,
) -> Iterator[tuple[dict[str, Any], LockedDirectory]]:
    """Context in which this process holds the lock on the workdir of a run.

    Args:
      workdir: directory of the run; created if it does not exist.
      config: config of the run, written to config.json.
      info: further facts about the run (parameters, device, versions), written to info.json with
        the environments of earlier steps (`flaxres.run.environments`).
      change: fields in which the config of the workdir may differ; appended to
        config_changes.jsonl. None: no further fields may differ.
      step: number of steps done, or a function that returns it, called under the lock; None for
        the step of the newest checkpoint in `workdir`.

    Yields:
      The previous content of info.json, {} for a new run; and the locked directory.

    Raises:
      ConfigError: a directory of this name cannot hold a run.
      InUseError: another process trains in the workdir.
      WorkdirError: the workdir is a file, cannot be written, or holds a run of another config. In
        the last case nothing in it changes.
    """
    accepted = change.fields if change else ()
    check_same_config(workdir, config, accepted=accepted)
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            locked = stack.enter_context(lock(workdir))
            remove_temporary_files(workdir)
            check_regular(workdir / INFO_FILE)
            previous_info = read_info(workdir)
            if change is not None:
                _check_as_before(workdir, change)
                append_config_change(workdir, change)
            if step is None:
                step = max(checkpoint_steps(workdir), default=0)
            elif callable(step):
                step = step()
            content = json.dumps(config.to_dict(), indent=2) + "\n"
            write_atomically(workdir / CONFIG_FILE, content)
            write_info(workdir, info, previous_info, step)
        except OSError as error:
            raise WorkdirError(
                f"workdir {workdir} cannot be written ({error.strerror}); choose another --workdir"
            ) from error
        yield previous_info, locked


def _check_as_before(workdir: Path, change: ConfigChange) -> None:
    """Checks that no other process has trained in a locked workdir since it was compared.

    Raises:
      WorkdirError: the workdir has another config or a newer checkpoint than `change` is for.
    """
    stored = read_config(workdir)
    known = [(change.old[field], change.new[field]) for field in change.fields]
    is_same = all(stored[f] in values for f, values in zip(change.fields, known, strict=True))
    if not is_same or checkpoint_steps(workdir)[-1:] not in ([], [change.step]):
        raise WorkdirError(
            f"another process has trained in {workdir} meanwhile; rerun the same command"
        )


def check_same_config(
    workdir: Path, config: ConfigDict, is_training: bool = True, accepted: Collection[str] = ()
) -> bool:
    """Checks that a workdir holds no run of another config.

    Args:
      workdir: directory of the run; need not exist.
      config: the given config.
      is_training: if False, the message advises how to read the run.
      accepted: fields that may differ.

    Returns:
      True if the workdir holds a run of `config`, False if it holds none.

    Raises:
      ConfigError: a directory of this name cannot hold a run.
      WorkdirError: the workdir is a file, cannot be read, or holds a run of another config.
    """
    check_path(workdir, is_training)
    try:
        is_file = workdir.exists() and not workdir.is_dir()
        has_config = (workdir / CONFIG_FILE).exists()
        has_metrics = (workdir / METRICS_FILE).exists()
    except OSError as error:
        raise WorkdirError(
            f"workdir {workdir} cannot be read ({error.strerror}); choose another --workdir"
        ) from error
    if is_file:
        raise WorkdirError(f"workdir must be a directory, but {workdir} is a file")
    ancestor = next(path for path in workdir.absolute().parents if os.path.lexists(path))
    if not ancestor.is_dir():
        raise WorkdirError(
            f"workdir {workdir} cannot be written ({ancestor} is not a directory); choose another "
            "--workdir"
        )
    if not has_config:
        if has_metrics:
            raise WorkdirError(
                f"workdir {workdir} holds a run without {CONFIG_FILE}; choose another --workdir"
            )
        check_no_sweep(workdir)
        return False
    stored, given = read_config(workdir), flatten(config)
    fields = [field for field in differing_fields(stored, given) if field not in accepted]
    if fields:
        advice = (
            f"{_repeat_overrides(stored, fields)}, or choose another --workdir"
            if is_training
            else "leave out --config to use the config in the workdir"
        )
        raise WorkdirError(
            f"workdir {workdir} holds a run of another config: "
            f"{describe_differences(stored, given, fields)}; {advice}"
        )
    return True


def describe_differences(
    stored: Mapping[str, Any], given: Mapping[str, Any], fields: Sequence[str]
) -> str:
    """Returns the values of the first differing fields in words.

    Args:
      stored: flattened config of the workdir.
      given: flattened config of the command.
      fields: names of the fields.
    """
    differences = [
        f"{field} is {_shown_field(stored.get(field))} in the workdir and "
        f"{_shown_field(given.get(field))} in this config"
        for field in fields
    ]
    return first_few(differences, MAX_DIFFERENCES, "; ")


def _shown_field(value: object) -> str:
    """Returns a value of a flattened config as on a command line, where lists are tuples."""
    return shown(tuple(value) if isinstance(value, list) else value)


def _repeat_overrides(stored: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Returns the advice to give the fields of a run again that differ."""
    # The name of the model sets its fields, and turns the warm-up on for deep models.
    overrides = [f for f in fields if f in stored and not f.startswith(("model.", "warmup."))]
    if not overrides:
        return "repeat the model and the overrides of the first command"
    value = stored[overrides[0]]
    text = str(tuple(value)).replace(", ", ",") if isinstance(value, list) else str(value)
    example = f"--config.{overrides[0]}={shlex.quote(text)}"
    return f"repeat the overrides of the first command, such as {example}"


def check_no_sweep(workdir: Path) -> None:
    """Checks that a directory, where a run is expected, does not hold the runs of a sweep.

    Raises:
      WorkdirError: it does; the message names one of them.
    """
    try:
        runs = sorted(path.parent for path in workdir.glob(f"*/seed-*/{CONFIG_FILE}"))
    except OSError:
        return
    if runs:
        raise WorkdirError(f"workdir {workdir} holds a sweep; give one of its runs, e.g. {runs[0]}")


def read_config(workdir: Path) -> dict[str, Any]:
    """Reads the config of a run, flattened to dotted names.

    Fields that were added after the run get their defaults, which describe how it was trained.

    Raises:
      DamagedFileError: config.json is missing, cannot be read, or a field has a wrong type.
    """
    path = workdir / CONFIG_FILE
    try:
        return stored_fields(read_document(path), path)
    except FileNotFoundError:
        raise DamagedFileError(f"{path} does not exist; choose another --workdir") from None
    except DamagedFileError as error:
        raise DamagedFileError(
            f"{error}; restore the file from a run with the same command, or choose another "
            "--workdir"
        ) from None


def read_run_config(workdir: Path) -> ConfigDict:
    """Reads the config of a run as a ConfigDict.

    Raises:
      DamagedFileError: config.json cannot be read or does not hold a valid config.
    """
    return make_config(read_config(workdir), workdir / CONFIG_FILE)


def differing_fields(config: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Returns the names of the fields in which two flattened configs differ.

    Fields in `CHANGEABLE_FIELDS` are not compared. A `model.stride_on` of 'auto' agrees with every
    value, because a run keeps the value that it started with.
    """
    stride = "model.stride_on"
    from flaxres.models.blocks import AUTO_STRIDE  # imports JAX

    decides_stride = AUTO_STRIDE not in (config.get(stride), other.get(stride))
    return [
        field
        for field in sorted(config.keys() | other.keys())
        if field not in CHANGEABLE_FIELDS
        and config.get(field) != other.get(field)
        and (field != stride or decides_stride)
    ]
