"""Commands with their flags, which are read once."""

import pytest

from tools.docs.commands import command_modules, read_commands


@pytest.fixture(scope="session")
def commands():
    """All commands except the benchmarks, and one analysis, by module."""
    modules = [name for name in command_modules() if not name.startswith("benchmarks.")]
    listed = read_commands([*modules, "experiments.analyze landscape"])
    return {command.module: command for command in listed}
