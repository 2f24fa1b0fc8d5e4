"""The working directory of a run: its config, and who may use it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from flaxres.aliases import rename_fields
from flaxres.config import default_config, flatten, model_name
from flaxres.errors import WorkdirError
from flaxres.run.lock import lock

CONFIG_FILE = "config.json"
INFO_FILE = "info.json"
METRICS_FILE = "metrics.jsonl"
LAYERS_FILE = "layers.jsonl"

# Fields that may change between the runs of one workdir, as they leave its results alone.
MAY_CHANGE = (
    *("name", "dataset.data_dir", "checkpoint_every", "keep_checkpoints", "log_layers_every"),
    # These but for rounding, and the number of devices where batch norm is per device.
    *("eval_batch_size", "steps_per_dispatch", "parallelism", "num_devices", "model.remat"),
    *("model.scan", "dataset.workers", "dataset.prefetch"),
)


def default_workdir(config: ConfigDict) -> Path:
    """runs/<name>/<net>-seed<seed>."""
    return Path("runs") / config.name / f"{model_name(config.model)}-seed{config.seed}"


@contextlib.contextmanager
def open_workdir(
    workdir: Path, config: ConfigDict, info: dict[str, object]
) -> Iterator[dict[str, object]]:
    """Context in which `workdir` is the directory of the run of `config`, and this process's alone.

    Args:
      workdir: made if it is not there.
      config: kept in config.json.
      info: what else is worth knowing of the run (params, device, versions), in info.json.

    Yields:
      What info.json said before; {} for a new run.

    Raises:
      InUseError: another process trains there.
      WorkdirError: it is a file, cannot be written, or holds the run of another config; then
        nothing in it is changed.
    """
    check_same_config(workdir, config)
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(workdir))
            before = read_info(workdir)
            for name, content in ((CONFIG_FILE, config.to_dict()), (INFO_FILE, info)):
                write_atomically(workdir / name, json.dumps(content, indent=2) + "\n")
        except OSError as error:
            raise WorkdirError(
                f"workdir {workdir} cannot be written ({error.strerror}); choose another --workdir"
            ) from error
        yield before


def check_same_config(workdir: Path, config: ConfigDict) -> bool:
    """True if `workdir` holds the run of `config`, False if it holds none.

    Raises:
      WorkdirError: it is a file, cannot be read, or holds the run of another config.
    """
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
    if not has_config:
        if has_metrics:
            raise WorkdirError(
                f"workdir {workdir} holds a run without {CONFIG_FILE}; choose another --workdir"
            )
        return False
    there, here = read_config(workdir), flatten(config)
    differences = [
        f"{field} is {there.get(field)!r} there and {here.get(field)!r} here"
        for field in differing_fields(there, here)
    ]
    if differences:
        raise WorkdirError(
            f"workdir {workdir} holds the run of another config: {'; '.join(differences)}; "
            "choose another --workdir"
        )
    return True


def read_config(workdir: Path) -> dict[str, object]:
    """Fields of the config kept in `workdir`, by dotted name.

    Fields that are newer than the run have their defaults, which are what it was trained with.

    Raises:
      WorkdirError: config.json cannot be read.
    """
    path = workdir / CONFIG_FILE
    try:
        return flatten(default_config()) | rename_fields(flatten(json.loads(path.read_text())))
    except (OSError, ValueError, AttributeError) as error:
        raise WorkdirError(f"{path} cannot be read ({error}); choose another --workdir") from error


def read_run_config(workdir: Path) -> ConfigDict:
    """The config that the run in `workdir` was trained with.

    Raises:
      WorkdirError: it cannot be read.
    """
    config = default_config()
    known = {
        field: tuple(value) if isinstance(value, list) else value
        for field, value in read_config(workdir).items()
    }
    try:
        config.update_from_flattened_dict(known)
    except (KeyError, TypeError, ValueError) as error:
        raise WorkdirError(f"{workdir / CONFIG_FILE} is not a config: {error}") from error
    return config


def read_info(workdir: Path) -> dict[str, object]:
    """What info.json says; {} if there is none that can be read."""
    try:
        return json.loads((workdir / INFO_FILE).read_text())
    except (OSError, ValueError):
        return {}


def differing_fields(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """Names of the fields in which two flattened configs differ, but for those that may."""
    return [
        field
        for field in sorted(one.keys() | other.keys())
        if field not in MAY_CHANGE and one.get(field) != other.get(field)
    ]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old content or the new, never a part."""
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
