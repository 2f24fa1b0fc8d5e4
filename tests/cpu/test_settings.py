"""XLA flags and memory-allocator settings."""

import os
import subprocess
import sys

import jax
import pytest

from flaxres.cpu import settings

SHOW = "import os; from flaxres import cpu; cpu.tune(); print([os.environ.get(n) for n in NAMES])"


@pytest.fixture
def environment(monkeypatch):
    """Returns monkeypatch, with an environment without settings of XLA, glibc and JAX."""
    for name in ("XLA_FLAGS", "GLIBC_TUNABLES", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_the_flag_is_set_only_for_tested_versions(environment):
    environment.setattr(settings.importlib.metadata, "version", lambda name: "0.10.7")
    settings.set_xla_flags()
    assert os.environ["XLA_FLAGS"] == f"{settings.CONVOLUTION_FLAG}=-individual_convolution"
    environment.delenv("XLA_FLAGS")
    environment.setattr(settings.importlib.metadata, "version", lambda name: "1.0.0")
    settings.set_xla_flags()
    assert "XLA_FLAGS" not in os.environ


def test_flags_of_the_user_take_precedence(environment):
    environment.setattr(settings.importlib.metadata, "version", lambda name: "0.10.7")
    environment.setenv("XLA_FLAGS", f"--a=1 {settings.CONVOLUTION_FLAG}=x")
    settings.set_xla_flags()
    assert os.environ["XLA_FLAGS"] == f"--a=1 {settings.CONVOLUTION_FLAG}=x"
    environment.setenv("XLA_FLAGS", "--a=1")
    settings.set_xla_flags()
    assert os.environ["XLA_FLAGS"].startswith("--a=1 ")


def test_missing_settings_are_reported_once(environment):
    lines = []
    environment.setattr(settings, "_is_reported", False)
    environment.setattr(settings, "runs_on_cpu", lambda: True)
    settings.report_missing_settings(lines.append)
    assert not lines
    environment.setattr(settings, "runs_on_cpu", lambda: False)
    environment.setattr(jax, "default_backend", lambda: "gpu")
    settings.report_missing_settings(lines.append)
    assert not lines
    environment.setattr(jax, "default_backend", lambda: "cpu")
    for _ in range(2):
        settings.report_missing_settings(lines.append)
    assert len(lines) == 1
    assert lines[0].endswith("; JAX_PLATFORMS=cpu turns them on")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
@pytest.mark.parametrize(
    "user_tunables", [None, "glibc.malloc.arena_max=2", "glibc.pthread.rseq=1"]
)
def test_the_process_restarts_once_with_the_tunables(environment, user_tunables):
    if user_tunables:
        environment.setenv("GLIBC_TUNABLES", user_tunables)
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
    assert done.stdout.splitlines() == [str([expected[user_tunables]])], done.stderr


def peak_growth(code, megabytes):
    """Returns how much the peak memory of a process grows, in units of an array's size."""
    prepare = "import ctypes, resource, jax; from flaxres import cpu\n"
    measure = "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
    done = subprocess.run(
        [sys.executable, "-c", prepare + measure + code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "GLIBC_TUNABLES": settings.MALLOC_TUNABLES, "JAX_PLATFORMS": "cpu"},
    )
    return float(done.stdout) / megabytes


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_released_memory_is_no_longer_counted():
    code = """
allocate = ctypes.CDLL(None).malloc
allocate.restype = ctypes.c_void_p
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
pieces = [ctypes.c_void_p(allocate(65536)) for _ in range(1600)]
for piece in pieces:
    ctypes.memset(piece, 1, 65536)
before = resident()
for piece in pieces[:-1]:
    ctypes.CDLL(None).free(piece)
kept = resident()
cpu.release_free_memory()
print(before - resident() if before - kept < 10 else -1)
"""
    assert peak_growth(code, 100) > 0.95


def test_synchronous_calls_hold_the_memory_of_one():
    # The factor and the product are temporary arrays of 64 MiB each.
    code = """
import jax.numpy as jnp
cpu.execute_asynchronously(False)
f = jax.jit(lambda x: (x * jnp.arange(2.0**24).reshape(-1, 4) @ jnp.tri(4)).max())
f(1.0).block_until_ready()
first = peak()
for _ in range(6):
    f(2.0)
print(peak() - first)
"""
    assert peak_growth(code, 128) < 0.3
