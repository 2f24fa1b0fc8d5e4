"""Commands that install the optional packages of flaxres."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]  # without requirements files in an installed copy


def install_command(extra: str, repository: Path = REPOSITORY) -> str:
    """Returns the command that installs an extra.

    Args:
      extra: name of the extra, such as 'prepare'.
      repository: directory of the requirements files. If it has none for the extra, flaxres is an
        installed copy, and the command names the extra instead.
    """
    file = repository / f"requirements-{extra}.txt"
    return f"pip install -r {file.name}" if file.is_file() else f"pip install 'flaxres[{extra}]'"
