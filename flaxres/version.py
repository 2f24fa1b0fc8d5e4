"""The git commit of the installed source code, which runs record."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PACKAGE = Path(__file__).parent
TIMEOUT = 5.0  # seconds; git usually needs some hundredths
# Variables that git sets in its hooks; they would point git to the hook's repository.
HOOK_VARIABLES = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
)
STATUS = ("status", "--porcelain=v2", "--branch", "--no-ahead-behind", "--untracked-files=no")
COMMIT_PREFIX = "# branch.oid "  # precedes the commit in the output of git status


def commit(package: Path = PACKAGE) -> str | None:
    """Returns the commit of the git repository that tracks `package`.

    Args:
      package: directory of a Python package.

    Returns:
      40 (or 64) hexadecimal digits, followed by '-dirty' if tracked files have uncommitted changes.
      None if no repository tracks the package (as for an installed copy, even inside a repository),
      there is no commit yet, or git is missing, fails or takes too long. No error is printed.
    """
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        lines = _git(package, *STATUS).splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    commits = [line.removeprefix(COMMIT_PREFIX) for line in lines if line.startswith(COMMIT_PREFIX)]
    if not commits or commits[0].startswith("("):  # (initial)
        return None
    return commits[0] + "-dirty" * any(not line.startswith("#") for line in lines)


def _git(directory: Path, *arguments: str) -> str:
    """Runs git in a directory and returns its standard output.

    Raises:
      OSError, subprocess.SubprocessError: git cannot be started, fails or takes too long.
    """
    environment = {name: value for name, value in os.environ.items() if name not in HOOK_VARIABLES}
    # Git must not write the index, which others may be using, or start a daemon.
    options = ("--no-optional-locks", "-c", "core.fsmonitor=false")
    return subprocess.run(
        ["git", *options, *arguments],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=TIMEOUT,
        encoding="utf-8",
        errors="replace",
    ).stdout
