"""info.json of a run: its parameters, and the devices, versions and commits that trained it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxres.errors import DamagedFileError, WorkdirError, print_note
from flaxres.files import write_atomically
from flaxres.run.environments import with_earlier
from flaxres.run.schemas import INFO_TYPES, check_fields, check_object, read_document

INFO_FILE = "info.json"


def read_info(workdir: Path) -> dict[str, Any]:
    """Reads info.json; returns {} if it does not exist, or with a note if it is damaged."""
    path = workdir / INFO_FILE
    try:
        info = check_object(read_document(path), str(path))
        check_fields(info, INFO_TYPES, str(path))
    except FileNotFoundError:
        return {}
    except DamagedFileError as error:
        print_note(f"{error}; the file is ignored")
        return {}
    return info


def write_info(
    workdir: Path, info: Mapping[str, Any], previous: Mapping[str, Any], step: int
) -> None:
    """Writes info.json of a run that starts or resumes.

    Args:
      workdir: directory of the run.
      info: facts about the run and the environment of this start.
      previous: content of info.json before this start; {} if there was none.
      step: number of steps done, after which this start trains.

    Raises:
      WorkdirError: the file cannot be written.
    """
    content = json.dumps(with_earlier(info, previous, step), indent=2) + "\n"
    try:
        write_atomically(workdir / INFO_FILE, content)
    except OSError as error:
        raise WorkdirError(
            f"workdir {workdir} cannot be written ({error.strerror}); choose another --workdir"
        ) from error
