import sys

import pytest

from benchmarks.torch_command import check_torch
from flaxres.errors import ConfigError


def test_an_interpreter_without_pytorch(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without site-packages
    python.chmod(0o755)
    with pytest.raises(ConfigError, match=r"requirements-benchmarks.txt, or .* --torch_python"):
        check_torch(str(python))


def test_an_interpreter_that_does_not_start(tmp_path):
    with pytest.raises(ConfigError, match="cannot be started"):
        check_torch(str(tmp_path / "python"))


def test_an_interpreter_with_pytorch():
    pytest.importorskip("torch", reason="pip install torch")
    check_torch(sys.executable)
