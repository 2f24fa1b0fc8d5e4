"""Shared memory without a name: access from another process, limits, and what is left."""

import os
import pickle
import subprocess
import sys
from multiprocessing import shared_memory
from pathlib import Path

import numpy as np
import pytest

from flaxres.data import anonymous_memory
from flaxres.data.anonymous_memory import AnonymousMemory, available_memory, memory_limit
from flaxres.errors import DatasetError
from tests.conftest import ROOT

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs memfd_create")

WRITE = """
import pickle, sys
memory = pickle.loads(bytes.fromhex(sys.argv[1]))
memory.buffer[:5] = b"hello"
"""


def write_in_another_process(memory):
    command = [sys.executable, "-c", WRITE, pickle.dumps(memory).hex()]
    subprocess.run(command, check=True, cwd=ROOT, timeout=60)


def without_memfd(monkeypatch):
    def deny(*_):
        raise PermissionError

    monkeypatch.setattr(os, "memfd_create", deny)


@linux
@pytest.mark.parametrize("prepare", [lambda _: None, without_memfd])
def test_another_process_writes_into_the_memory(monkeypatch, prepare):
    prepare(monkeypatch)
    names = set(os.listdir("/dev/shm"))
    memory = AnonymousMemory(5_000)
    assert not any(name.startswith("psm_") for name in set(os.listdir("/dev/shm")) - names)
    assert bytes(memory.buffer) == bytes(5_000)
    write_in_another_process(memory)
    assert bytes(memory.buffer[:6]) == b"hello\0"
    array = np.ndarray((2, 3), np.uint8, memory.buffer, 1)
    np.testing.assert_array_equal(array[0], list(b"ell"))
    del array
    path = f"/proc/{os.getpid()}/fd/{memory._descriptor}"
    memory.close()
    memory.close()
    assert not os.path.exists(path)


def test_named_memory_on_other_systems(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    memory = AnonymousMemory(100)
    try:
        attached = pickle.loads(pickle.dumps(memory))
        attached.buffer[:2] = b"hi"
        assert bytes(memory.buffer[:2]) == b"hi"
        attached._named.close()
    finally:
        name = memory._named.name
        memory.close()
    with pytest.raises(FileNotFoundError):
        shared_memory.SharedMemory(name)


@linux
def test_memory_of_a_process_that_ended_is_an_error():
    memory = AnonymousMemory(100)
    late, other = (pickle.loads(pickle.dumps(memory)) for _ in range(2))
    memory.close()
    with pytest.raises(DatasetError, match=r"cannot open the shared memory /proc/\d+/fd/\d+ \("):
        late.buffer  # noqa: B018 (opens it)
    other._path = "/dev/null"  # the number may belong to another file now
    with pytest.raises(DatasetError, match="belongs to another process"):
        other.buffer  # noqa: B018


@linux
def test_limits(monkeypatch, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DatasetError, match=r"need 1,073,741,824 MiB .* MiB of memory are free"):
        AnonymousMemory(2**50)
    assert len(os.listdir("/proc/self/fd")) == before
    without_memfd(monkeypatch)
    with pytest.raises(DatasetError, match=r"MiB of /dev/shm are free; enlarge /dev/shm, choose a"):
        AnonymousMemory(2**50)
    monkeypatch.setattr(anonymous_memory, "SHARED_MEMORY", tmp_path / "none")
    with pytest.raises(DatasetError, match=r"has no shared memory .*workers"):
        AnonymousMemory(100)


@linux
@pytest.mark.parametrize(
    ("cgroup", "files", "expected", "limit"),
    [
        (
            "0::/job/step\n",
            {
                "job/memory.max": "5000000",
                "job/memory.current": "3000000",
                "job/memory.stat": "anon 5\ninactive_file 1000\n",
                "job/step/memory.max": "max",
                "job/step/memory.current": "1",
                "job/step/memory.stat": "inactive_file 0\n",
            },
            2_001_000,
            5_000_000,
        ),
        (
            "5:cpu:/\n4:memory:/docker/abc\n",  # the path of the host, in a container
            {
                "memory/memory.limit_in_bytes": "7000000",
                "memory/memory.usage_in_bytes": "6000000",
                "memory/memory.stat": "total_inactive_file 5\n",
            },
            1_000_005,
            7_000_000,
        ),
        ("", {}, 4_096_000, None),
        ("1:memory:/\n", {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, 4_096_000, None),
    ],
)
def test_available_memory(monkeypatch, tmp_path, cgroup, files, expected, limit):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    contents = {
        "/proc/self/cgroup": cgroup,
        "/proc/meminfo": "MemFree: 1 kB\nMemAvailable: 3000 kB\nSwapFree:    1000 kB\n",
    }
    read_text = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path: contents.get(str(path)) or read_text(path))
    monkeypatch.setattr(anonymous_memory, "CGROUPS", tmp_path)
    assert available_memory() == expected
    assert memory_limit() == limit


def test_available_memory_of_this_machine():
    available = available_memory()
    assert available is None or available > 2**20
