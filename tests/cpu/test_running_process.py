"""CPU settings of a process that does not restart itself."""

import os
import subprocess
import sys

import pytest

from flaxres.cpu import running_process, settings
from tests.conftest import ROOT

SHOW = """
import os
import flaxres
from flaxres.cpu import running_process
print(running_process.missing_settings())
{before}
flaxres.tune()
print(running_process.missing_settings())
print(os.environ.get("XLA_FLAGS"))
"""


def run(code, **environment):
    names = ("XLA_FLAGS", "GLIBC_TUNABLES")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**clean, "JAX_PLATFORMS": "cpu", **environment},
        check=True,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_tune_supplies_what_is_missing():
    lines = run(SHOW.format(before="")).stdout.splitlines()
    assert lines == [
        "XLA and memory allocation",
        "",
        f"{settings.CONVOLUTION_FLAG}=-individual_convolution",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_tune_after_the_first_computation_says_so():
    done = run(SHOW.format(before="import jax; jax.devices()"))
    assert done.stdout.splitlines() == ["XLA and memory allocation", "XLA", "None"]
    assert "restart Python and call it first" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_printed_commands_set_the_whole_environment():
    printed = run(
        "import runpy, sys; sys.argv[1:] = ['--print_env']; "
        "runpy.run_module('flaxres.cpu', run_name='__main__')"
    ).stdout
    shell = subprocess.run(
        ["sh", "-c", f"{printed}env"], capture_output=True, text=True, check=True, env={}
    )
    assert f"GLIBC_TUNABLES={settings.MALLOC_TUNABLES}" in shell.stdout.splitlines()
    assert f"XLA_FLAGS={settings.CONVOLUTION_FLAG}" in shell.stdout


def test_accelerators_need_no_settings(monkeypatch):
    monkeypatch.setattr(running_process, "runs_on_cpu", lambda: False)
    assert running_process.missing_settings() == ""
