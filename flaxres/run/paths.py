"""Paths of workdirs: names that a directory of runs can have."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from flaxres.errors import ConfigError
from flaxres.run.checkpoint_files import has_descriptor_paths

MAX_PATH_BYTES = 3_800  # Linux allows 4,095; the files of a run have up to 250 more
MAX_NAME_BYTES = 255


def check_path(workdir: Path, is_training: bool = True) -> None:
    """Checks that a directory of this name can hold runs; reads and writes nothing.

    Args:
      workdir: directory of the run or the sweep.
      is_training: if False, the run exists already, and its name may have control characters.

    Raises:
      ConfigError: the path is an address such as gs://BUCKET, has control characters, or is too
        long for the system.
    """
    first = workdir.parts[0] if workdir.parts else ""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+:", first):
        raise ConfigError(
            f"--workdir must be a directory of this machine, got {first}//"
            f"{'/'.join(workdir.parts[1:])}; mount the storage and give its path"
        )
    path = str(workdir.absolute())
    unprintable = sorted({c for c in path if unicodedata.category(c) in ("Cc", "Zl", "Zp")})
    if unprintable and is_training:
        raise ConfigError(
            f"--workdir must not have line breaks or other control characters, got {path!r} with "
            f"{', '.join(map(repr, unprintable))}; choose another name"
        )
    if not has_descriptor_paths() and re.search(r"[][*?\\\udc80-\udcff]|~(/|$)|\w:/", path):
        raise ConfigError(
            "on this system and in runs of several processes, --workdir must not have brackets, "
            f"*, ?, backslashes or bytes that are not UTF-8, and no '~' or ':' before a '/', got "
            f"{path!r}; choose another name"
        )
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ConfigError(
            f"--workdir must have at most {MAX_PATH_BYTES:,} bytes, got {len(os.fsencode(path)):,} "
            f"in {path[:50]}...; choose a shorter path"
        )
    if too_long := next((p for p in workdir.parts if len(os.fsencode(p)) > MAX_NAME_BYTES), None):
        raise ConfigError(
            f"the names in --workdir must have at most {MAX_NAME_BYTES} bytes, got "
            f"{len(os.fsencode(too_long)):,} in {too_long[:50]}...; choose a shorter name"
        )
