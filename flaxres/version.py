"""Which source code this is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PACKAGE = Path(__file__).parent
SECONDS = 5.0  # that git may take; it needs some hundredths
# What a hook of git, say, sets for its own repository.
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE")
STATUS = ("status", "--porcelain=v2", "--branch", "--no-ahead-behind", "--untracked-files=no")
COMMIT = "# branch.oid "  # before the commit, in the output of git status


def commit(package: Path = PACKAGE) -> str | None:
    """The commit of the git repository that tracks `package`, as 40 (or 64) hexadecimal digits.

    '-dirty' follows where files that the repository tracks are not as they were committed.

    Args:
      package: the directory of a Python package.

    Returns:
      None if no repository tracks it (an installed copy, even one inside a repository), there is
      no commit yet, or git is missing, refuses or takes too long. Nothing is printed or raised.
    """
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        lines = _git(package, *STATUS).splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    names = [line.removeprefix(COMMIT) for line in lines if line.startswith(COMMIT)]
    if not names or names[0].startswith("("):  # (initial)
        return None
    return names[0] + "-dirty" * any(not line.startswith("#") for line in lines)


def _git(directory: Path, *arguments: str) -> str:
    """What git prints.

    Raises:
      OSError, subprocess.SubprocessError: it cannot be started, fails or takes too long.
    """
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    # It only looks: no index is written, which others may be using, and no daemon started.
    options = ("--no-optional-locks", "-c", "core.fsmonitor=false")
    return subprocess.run(
        ["git", *options, *arguments],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=SECONDS,
        encoding="utf-8",
        errors="replace",
    ).stdout
