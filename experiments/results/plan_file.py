"""sweep.json: the configs of all planned runs of a sweep, by run name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flaxres.aliases import rename_fields
from flaxres.config import default_fields
from flaxres.errors import DamagedFileError
from flaxres.experiments.results.run_names import check_run_name
from flaxres.run.schemas import check_config_fields, check_object, read_document

FlatConfig = dict[str, Any]  # fields of a config by dotted name, such as 'model.depth'

PLAN_FILE = "sweep.json"


def planned_runs(workdir: Path) -> dict[str, FlatConfig]:
    """Reads the configs of all planned runs of a sweep, by run name; {} without a sweep.json.

    Fields that are missing in the file get their defaults.

    Raises:
      DamagedFileError: sweep.json or an entry in it cannot be read.
    """
    planned, damaged = read_plan(workdir)
    if damaged:
        raise DamagedFileError(f"{next(iter(damaged.values()))}; restore or remove the file")
    return planned


def read_plan(workdir: Path) -> tuple[dict[str, FlatConfig], dict[str, str]]:
    """Reads sweep.json as `planned_runs` does, without the entries that cannot be read.

    Returns:
      The configs by run name, and why an entry cannot be read, by its name. If the whole file
      cannot be read, that name is sweep.json.
    """
    path = workdir / PLAN_FILE
    planned: dict[str, FlatConfig] = {}
    damaged: dict[str, str] = {}
    try:
        entries = check_object(read_document(path), str(path))
    except FileNotFoundError:
        entries = {}
    except DamagedFileError as error:
        entries, damaged[PLAN_FILE] = {}, str(error)
    defaults = dict(default_fields())
    for name, entry in entries.items():
        where = f"{path}: {name!r}"
        try:
            check_run_name(name, str(path))
            fields = rename_fields(check_object(entry, where), path)
            check_config_fields(fields, where)
            planned[name] = defaults | fields
        except DamagedFileError as error:
            damaged[name] = str(error)
    return planned, damaged
