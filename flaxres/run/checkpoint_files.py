"""Checkpoints of a workdir as files on disk, without reading their arrays."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from flaxres.errors import CheckpointError

DESCRIPTOR_PATHS = "/proc/self/fd"  # on Linux, has a link to the file of each open descriptor
CHECKPOINTS_DIRECTORY = "checkpoints"  # one subdirectory per step, in Orbax's format
DAMAGED_DIRECTORY = "checkpoints_damaged"  # receives checkpoints that cannot be read

STEP = re.compile(r"0|[1-9][0-9]*")  # name of a checkpoint: its step without leading zeros
# Names that need no explanation: hidden files, and saves of Orbax that were not completed.
INTERNAL = re.compile(r"\..*|.*\.orbax-checkpoint-tmp.*")


def has_descriptor_paths() -> bool:
    """Returns True if checkpoints are opened by the descriptor of their workdir, not by its name.

    Orbax and TensorStore change or refuse names with brackets, backslashes or bytes that are not
    UTF-8. A path through a descriptor has none of these, and leads to the same directory after a
    renaming. The processes of one run agree on paths, so they need the name.
    """
    import jax

    return os.path.isdir(DESCRIPTOR_PATHS) and not jax.distributed.is_initialized()


def checkpoint_steps(workdir: Path) -> list[int]:
    """Returns the steps of the checkpoints of a run in ascending order, damaged ones included.

    Raises:
      CheckpointError: `checkpoints` exists, but is not a directory or cannot be read.
    """
    return sorted(int(entry.name) for entry in _entries(workdir) if _is_checkpoint(entry))


def unknown_entries(workdir: Path) -> list[str]:
    """Returns the names of files and directories in `checkpoints` that are no checkpoints.

    Raises:
      CheckpointError: `checkpoints` exists, but is not a directory or cannot be read.
    """
    return sorted(
        entry.name
        for entry in _entries(workdir)
        if not _is_checkpoint(entry) and not INTERNAL.fullmatch(entry.name)
    )


def make_directory(workdir: Path) -> None:
    """Creates `checkpoints` of a workdir.

    Raises:
      CheckpointError: it cannot be created or written.
    """
    directory = workdir.absolute() / CHECKPOINTS_DIRECTORY
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise CheckpointError(
            f"{directory} cannot be written ({error.strerror}); make it writable and rerun the "
            "command"
        ) from error


def move_damaged(workdir: Path, name: str) -> None:
    """Moves an entry of `checkpoints` to `checkpoints_damaged`.

    Raises:
      CheckpointError: it cannot be moved.
    """
    directory = workdir / DAMAGED_DIRECTORY
    try:
        directory.mkdir(exist_ok=True)
        # The number keeps checkpoints of the same step that were moved earlier.
        number = len(list(directory.iterdir()))
        os.rename(workdir / CHECKPOINTS_DIRECTORY / name, directory / f"{name}-{number}")
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {name} is damaged and cannot be moved to {directory} "
            f"({error.strerror}); move it and rerun the command"
        ) from error


def is_complete(workdir: Path, step: int) -> bool:
    """Returns True if all files of a checkpoint are there and none is empty.

    Does not read the arrays; `Checkpoints.is_valid` compares them with their digest.
    """
    directory = workdir / CHECKPOINTS_DIRECTORY / str(step)
    needed = ("digest/metadata", "state/_METADATA", "state/manifest.ocdbt", "state/d")
    if not all((directory / name).exists() for name in needed):
        return False
    return all(
        (Path(parent) / name).stat().st_size > 0
        for parent, _, names in os.walk(directory)
        for name in names
    )


def _is_checkpoint(entry: os.DirEntry[str]) -> bool:
    return bool(STEP.fullmatch(entry.name)) and entry.is_dir()


def _entries(workdir: Path) -> list[os.DirEntry[str]]:
    directory = workdir / CHECKPOINTS_DIRECTORY
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        if directory.is_symlink():
            raise CheckpointError(
                f"{directory} is a link to {os.readlink(directory)}, which does not exist; restore "
                "that directory, or remove the link to start over"
            ) from None
        return []
    except NotADirectoryError:
        if not workdir.is_dir():
            return []
        raise CheckpointError(
            f"{directory} must be a directory, but it is a file; move it away and rerun the command"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{directory} cannot be read ({error.strerror}); make it readable and rerun the command"
        ) from None
