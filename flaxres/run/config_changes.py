"""Changes of a run's config when it resumed, kept in config_changes.jsonl in its workdir.

The file has one JSON object per changed field: the step and the time at which the run resumed, the
field, its old and its new value, and whether the steps done before have the learning rate of the
new config.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from flaxres.errors import DamagedFileError, first_few, one_line
from flaxres.files import read_regular, write_atomically

CHANGES_FILE = "config_changes.jsonl"
MAX_FIELDS = 5  # in a message


class FieldChange(msgspec.Struct, frozen=True):
    """A config field that changed when a run resumed; a line of config_changes.jsonl.

    Attributes:
      step: number of steps done before the change.
      time: date and time of the change, ISO 8601.
      field: dotted name of the field.
      old: value before the change.
      new: value after it.
      same_learning_rates: True if the new config gives every step done before the learning rate
        that it had, so that the result is that of a run with the new config from the start.
    """

    step: int
    time: str
    field: str
    old: Any
    new: Any
    same_learning_rates: bool


@dataclasses.dataclass(frozen=True)
class ConfigChange:
    """The fields in which a command's config differs from that of the run that it resumes.

    Attributes:
      step: number of steps done before the change.
      old: old values by dotted name of the field.
      new: new values by dotted name of the field.
      same_learning_rates: True if the learning rates of these steps agree in both configs.
    """

    step: int
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    same_learning_rates: bool

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the changed fields."""
        return tuple(self.new)

    def describe(self) -> str:
        """Returns one line on the changed fields."""
        changes = [
            f"{name} {_shown(old)} -> {_shown(self.new[name])}" for name, old in self.old.items()
        ]
        line = f"the config changes after step {self.step:,}: {first_few(changes, MAX_FIELDS)}"
        if self.same_learning_rates:
            return line
        return f"{line}; the steps before had other learning rates than in the new config"


def _shown(value: object) -> str:
    return str(tuple(value)) if isinstance(value, list) else str(value)


def append_config_change(workdir: Path, change: ConfigChange) -> None:
    """Appends a change to config_changes.jsonl, one line per field.

    A command that was killed before it stored its config appends nothing a second time.

    Args:
      workdir: directory of the run, which this process has locked.
      change: the change.

    Raises:
      DamagedFileError: the file has a line that is not a change.
      OSError: the file cannot be written.
    """
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    changes = [
        FieldChange(
            change.step, now, name, change.old[name], change.new[name], change.same_learning_rates
        )
        for name in change.fields
    ]
    before = read_config_changes(workdir)
    known = {_key(earlier) for earlier in before[-len(changes) :]}
    added = [new for new in changes if _key(new) not in known]
    lines = [msgspec.json.encode(entry) + b"\n" for entry in (*before, *added)]
    write_atomically(workdir / CHANGES_FILE, b"".join(lines))


def _key(change: FieldChange) -> str:
    return json.dumps([change.step, change.field, change.old, change.new])


def read_config_changes(workdir: Path) -> Sequence[FieldChange]:
    """Reads config_changes.jsonl; returns () if it does not exist.

    Raises:
      DamagedFileError: the file cannot be read, or has a line that is not a change.
    """
    path = workdir / CHANGES_FILE
    try:
        return msgspec.json.Decoder(FieldChange).decode_lines(read_regular(path))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        reason = getattr(error, "strerror", None) or one_line(error)
        raise DamagedFileError(
            f"{path} cannot be read ({reason}); restore the file, or remove it"
        ) from error
