"""Names and directories of the runs in a workdir (VARIANT/seed-N), selected by patterns."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Sequence
from pathlib import Path

from flaxres.errors import ConfigError, DamagedFileError, one_line
from flaxres.run.workdir import CONFIG_FILE, METRICS_FILE
from flaxres.suggestions import did_you_mean

SEED_PREFIX = "seed-"  # prefix of the directory of a run in a sweep


def run_directories(workdir: Path) -> list[Path]:
    """Returns the directories VARIANT/seed-N of the runs in a sweep's workdir, sorted by name.

    A directory with metrics and without a config is one too: its config has been lost.
    """
    pattern = f"*/{SEED_PREFIX}*"
    files = (workdir.glob(f"{pattern}/{name}") for name in (CONFIG_FILE, METRICS_FILE))
    return sorted({file.parent for file in itertools.chain(*files)})


def sweep_hint(workdir: Path) -> str:
    """Returns '; did you mean --workdir=SWEEP?' for the directory of one variant, otherwise ''."""
    is_variant = any(workdir.glob(f"{SEED_PREFIX}*/{CONFIG_FILE}"))
    return f"; did you mean --workdir={workdir.parent}?" if is_variant else ""


def check_inside(directory: Path, workdir: Path) -> None:
    """Checks that no link leads from a directory of a run out of the sweep's workdir.

    Raises:
      DamagedFileError: a link does.
    """
    try:
        is_inside = directory.resolve().is_relative_to(workdir.resolve())
    except (OSError, RuntimeError) as error:  # the links form a loop
        raise DamagedFileError(f"{directory} cannot be read: {one_line(error)}") from error
    if not is_inside:
        raise DamagedFileError(
            f"{directory} must be a directory in {workdir}, but it is a link to "
            f"{directory.resolve()}; copy the run"
        )


def check_run_name(name: str, where: str) -> None:
    """Checks that a name in a file is VARIANT/seed-N, so that it leads to a place in the workdir.

    Raises:
      DamagedFileError: it is not.
    """
    variant, _, seed = name.partition("/")
    is_plain = "/" not in seed and "\0" not in name and variant not in ("", ".", "..")
    if not is_plain or not seed.startswith(SEED_PREFIX):
        raise DamagedFileError(
            f"{where}: the name of a run must be VARIANT/{SEED_PREFIX}N, got {name!r}"
        )


def run_name(directory: Path) -> str:
    """Returns VARIANT/seed-N for a run of a sweep, otherwise the name of its directory."""
    parts = directory.resolve().parts
    return "/".join(parts[-2:]) if parts[-1].startswith(SEED_PREFIX) else parts[-1]


def select_names(
    names: Sequence[str], patterns: Sequence[str] | None, kind: str = "run"
) -> list[str]:
    """Selects names of runs or weights by shell patterns, which match VARIANT/seed-N or VARIANT.

    Args:
      names: the names.
      patterns: patterns such as 'resnet-*' or '*/seed-0'; empty or None for all names.
      kind: what has these names, for messages.

    Raises:
      ConfigError: a pattern matches no name.
    """
    if not patterns:
        return list(names)
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            if len(names) == 1:
                raise ConfigError(f"--only={pattern} does not match the {kind} {names[0]}")
            variants = (name.partition("/")[0] for name in names)
            raise ConfigError(
                f"--only={pattern} matches none of the {len(names)} {kind}s, such as {names[0]}"
                f"{did_you_mean(pattern, variants if '/' not in pattern else names)}"
            )
    return [name for name in names if any(_matches(name, pattern) for pattern in patterns)]


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name.partition("/")[0], pattern)
