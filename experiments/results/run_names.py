"""Names and directories of the runs in a workdir (VARIANT/seed-N), selected by patterns."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from flaxres.errors import ConfigError
from flaxres.run.workdir import CONFIG_FILE

SEED_PREFIX = "seed-"  # prefix of the directory of a run in a sweep


def run_directories(workdir: Path) -> list[Path]:
    """Returns the directories VARIANT/seed-N of the runs in a sweep's workdir, sorted by name."""
    return sorted(path.parent for path in workdir.glob(f"*/{SEED_PREFIX}*/{CONFIG_FILE}"))


def run_name(directory: Path) -> str:
    """Returns VARIANT/seed-N for a run of a sweep, otherwise the name of its directory."""
    parts = directory.resolve().parts
    return "/".join(parts[-2:]) if parts[-1].startswith(SEED_PREFIX) else parts[-1]


def select_names(names: Sequence[str], patterns: Sequence[str] | None) -> list[str]:
    """Selects run names by shell patterns, which match VARIANT/seed-N or VARIANT.

    Args:
      names: names of the runs.
      patterns: patterns such as 'resnet-*' or '*/seed-0'; empty or None for all names.

    Raises:
      ConfigError: a pattern matches no name.
    """
    if not patterns:
        return list(names)
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            raise ConfigError(
                f"--only={pattern} matches none of the {len(names)} runs, such as {names[0]}"
            )
    return [name for name in names if any(_matches(name, pattern) for pattern in patterns)]


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name.partition("/")[0], pattern)
