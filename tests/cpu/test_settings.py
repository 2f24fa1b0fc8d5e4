import os
import subprocess
import sys

import pytest

from flaxres.cpu import settings

SHOW = "import os; from flaxres import cpu; cpu.tune(); print([os.environ.get(n) for n in NAMES])"


@pytest.fixture
def environment(monkeypatch):
    for name in ("XLA_FLAGS", "GLIBC_TUNABLES", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_flags_only_for_versions_that_know_them(environment):
    environment.setattr(settings.importlib.metadata, "version", lambda name: "0.10.7")
    settings.set_xla_flags()
    assert os.environ["XLA_FLAGS"] == f"{settings.CONVOLUTION_FLAG}=-individual_convolution"
    environment.delenv("XLA_FLAGS")
    environment.setattr(settings.importlib.metadata, "version", lambda name: "1.0.0")
    settings.set_xla_flags()
    assert "XLA_FLAGS" not in os.environ


def test_the_user_s_flags_win(environment):
    environment.setattr(settings.importlib.metadata, "version", lambda name: "0.10.7")
    environment.setenv("XLA_FLAGS", f"--a=1 {settings.CONVOLUTION_FLAG}=x")
    settings.set_xla_flags()
    assert os.environ["XLA_FLAGS"] == f"--a=1 {settings.CONVOLUTION_FLAG}=x"
    environment.setenv("XLA_FLAGS", "--a=1")
    settings.set_xla_flags()
    assert os.environ["XLA_FLAGS"].startswith("--a=1 ")


@pytest.mark.parametrize(
    ("platforms", "plugins", "expected"),
    [("cpu", True, True), ("cuda", False, False), (None, True, False), (None, False, True)],
)
def test_off_on_accelerators(environment, platforms, plugins, expected):
    environment.setattr(settings.importlib.util, "find_spec", lambda name: plugins or None)
    if platforms:
        environment.setenv("JAX_PLATFORMS", platforms)
    assert settings.runs_on_cpu() is expected


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
@pytest.mark.parametrize("mine", [None, "glibc.malloc.arena_max=2", "glibc.pthread.rseq=1"])
def test_the_process_starts_anew_once_with_the_tunables(environment, mine):
    if mine:
        environment.setenv("GLIBC_TUNABLES", mine)
    environment.setenv("JAX_PLATFORMS", "cpu")
    code = SHOW.replace("NAMES", repr(["GLIBC_TUNABLES"]))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=os.getcwd()
    )
    expected = {
        None: settings.MALLOC_TUNABLES,
        "glibc.malloc.arena_max=2": "glibc.malloc.arena_max=2",
        "glibc.pthread.rseq=1": f"glibc.pthread.rseq=1:{settings.MALLOC_TUNABLES}",
    }
    assert done.stdout.splitlines() == [str([expected[mine]])], done.stderr
