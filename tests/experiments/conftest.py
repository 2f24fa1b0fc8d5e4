"""Fixture of all tests of experiments."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation(quick_compilation):
    """Analyses and sweeps run each program once or for a few steps."""
