"""Fixtures of the tests that compile for TPUs and GPUs."""

import pytest

from benchmarks.named_devices import missing_wheels


@pytest.fixture(autouse=True)
def _has_compiler(program):
    """Skips a test whose compiler is not installed."""
    if missing := missing_wheels(program.devices):
        pytest.skip(f"compiling for {program.devices} needs {missing}")
