"""Builds of the kernels: the cache, damaged and planted libraries, compilers that fail."""

import dataclasses
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from flaxres.cpu import build, build_directory, compilation_cache
from flaxres.cpu.build import Build
from flaxres.cpu.build_directory import BuildDirectory
from flaxres.cpu.kernel_files import DTYPES, KERNELS
from tests.processes import has_ended

reals = {
    dtype: Build(sources) for dtype, sources in KERNELS.items()
}  # the first use also builds the kernels
real = reals["float32"]
pytestmark = pytest.mark.skipif(
    not all(r.wait() and r.path for r in reals.values()), reason="needs a C++ compiler and a cache"
)
TEMPORARY = tempfile.gettempdir()
PREVIOUS_NAME = "kernels-abcd_123.so"  # of a temporary file of version 0.1.0


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache directory."""
    monkeypatch.setenv("FLAXRES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    compilation_cache.notify.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Returns a function that makes a shell script the C++ compiler."""

    def install(script):
        path = tmp_path / "compiler"
        path.write_text(f"#!/bin/sh\necho x >> {tmp_path}/calls\nfor last; do :; done\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))
        return tmp_path / "calls"

    return install


@pytest.fixture
def public_directory():
    """A directory that all users can enter and write; pytest's own are private."""
    with tempfile.TemporaryDirectory(dir=TEMPORARY) as name:
        os.chmod(name, 0o777)
        yield Path(name)


COPY = f"""
case "$*" in
  *BFLOAT16*) cp {reals["bfloat16"].path} "$last" ;;
  *) cp {real.path} "$last" ;;
esac
"""


def test_the_library_is_built_once(cache, compiler, tmp_path):
    calls = compiler(COPY)
    first = Build()
    assert first.wait().flaxres_lanes() > 0
    assert first.path.parent == cache
    assert first.path.name.startswith(f"kernels-{first.key}-")
    again = Build()
    assert again.path == first.path
    assert again.wait() is not None
    assert calls.read_text() == "x\n"
    assert os.listdir(cache) == [first.path.name]
    assert cache.stat().st_mode & 0o777 == 0o700
    assert first.path.stat().st_mode & 0o022 == 0
    assert os.listdir(tmp_path / "temporary") == []


def test_changed_sources_change_the_key(cache, compiler, tmp_path):
    compiler(COPY)
    original = Build()
    sources = KERNELS["float32"]
    shutil.copytree(sources.main.parent, tmp_path / "cc")
    with (tmp_path / "cc" / "norm.h").open("a") as header:
        header.write("//")
    changed = Build(dataclasses.replace(sources, main=tmp_path / "cc" / "kernels.cc"))
    assert original.wait() is not None
    assert changed.wait() is not None  # two builds at once
    assert original.key != changed.key


def plant_empty(path):
    path.write_bytes(b"")


def plant_truncated(path):
    os.truncate(path, 10_000)


def plant_flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def plant_directory(path):
    path.unlink()
    (path / "below").mkdir(parents=True)


def plant_fifo(path):
    path.unlink()
    os.mkfifo(path)


def plant_link(path):
    path.rename(path.with_name("elsewhere.so"))
    path.symlink_to(path.with_name("elsewhere.so"))


def plant_writable(path):
    path.chmod(0o777)


def plant_foreign(path):
    os.chown(path, 12345, -1)


PLANTS = [plant_empty, plant_truncated, plant_flipped, plant_directory, plant_fifo, plant_link]
PLANTS += [plant_writable] + [plant_foreign] * (os.geteuid() == 0)


@pytest.mark.parametrize("plant", PLANTS)
def test_a_library_that_must_not_be_loaded_is_built_again(cache, compiler, capfd, plant):
    calls = compiler(COPY)
    first = Build()
    first.wait()
    plant(first.path)
    second = Build()
    assert second.wait() is not None
    assert second.path == first.path
    assert Build().wait() is not None
    assert calls.read_text() == "x\n" * 2
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo note >&2; echo 'x.cc:1: error: no good' >&2; exit 1", "x.cc:1: error: no good"),
        ("exit 3", "exit code 3"),
        ("kill -9 $$", "killed by signal 9"),
        ("exit 0", "it wrote no library"),
        (': > "$last"', "its library cannot be loaded"),
        ('echo garbage > "$last"', "its library cannot be loaded"),
        (f'head -c 20000 {real.path} > "$last"', "its library cannot be loaded"),
        ('mkdir "$last"', "it wrote no library"),
        ('mkfifo "$last"', "it wrote no library"),
        # A library of something else, without the functions.
        (f'cp {sys.modules["_ctypes"].__file__} "$last"', "its library cannot be loaded"),
    ],
)
def test_compilers_that_make_no_library(cache, compiler, tmp_path, script, problem):
    compiler(script)
    failed = Build()
    assert failed.wait() is None
    assert failed.problem.startswith(f"{tmp_path}/compiler failed: ")
    assert problem in failed.problem
    assert "\n" not in failed.problem
    assert os.listdir(cache) == []


def test_a_compiler_that_hangs_is_killed_with_its_children(cache, compiler, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "COMPILE_SECONDS", 0.2)
    compiler(f"sleep 100 & echo $! > {tmp_path}/pid; wait")
    failed = Build()
    assert failed.wait() is None
    assert failed.problem == f"{tmp_path}/compiler was stopped after 0.2 s"
    assert has_ended((tmp_path / "pid").read_text().strip())
    assert os.listdir(cache) == []


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("/nonexistent/c++", "/nonexistent/c++: No such file or directory"),
        ("/", "/: Permission denied"),
        ("'unbalanced", "CXX='unbalanced: No closing quotation"),
        ('""', "names no program"),
    ],
)
def test_nonsense_in_cxx(cache, monkeypatch, command, problem):
    monkeypatch.setenv("CXX", command)
    failed = Build()
    assert failed.wait() is None
    assert failed.problem.endswith(problem)
    assert os.listdir(cache) == []


def test_arguments_and_spaces_in_cxx(cache, compiler, monkeypatch, tmp_path):
    compiler(f'echo "$1" > {tmp_path}/first; {COPY}')
    (tmp_path / "compiler").rename(tmp_path / "my compiler")
    monkeypatch.setenv("CXX", f"{tmp_path}/my compiler")
    assert Build().wait() is not None
    monkeypatch.setenv("CXX", f"'{tmp_path}/my compiler' -DX='a b'")
    assert Build().wait() is not None
    assert (tmp_path / "first").read_text() == "-DX=a b\n"


@pytest.mark.parametrize("command", [None, " "])
def test_no_compiler(cache, monkeypatch, command):
    monkeypatch.delenv("CXX", raising=False)
    if command:
        monkeypatch.setenv("CXX", command)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    failed = Build()
    assert failed.wait() is None
    assert failed.problem == "no C++ compiler (c++, g++, clang++) is installed"


@pytest.mark.parametrize("fault", ["file", "others write", "full", "no home"])
def test_without_a_cache_the_library_is_built_in_a_temporary_directory(
    cache, compiler, monkeypatch, tmp_path, public_directory, capfd, fault
):
    calls = compiler(COPY)
    if fault == "file":
        cache.write_text("")
    elif fault == "others write":
        monkeypatch.setenv("FLAXRES_CACHE", str(public_directory))
        build_without_cache = Build()
        build_without_cache.wait()
        planted = real.path.name.replace(real.key, build_without_cache.key)
        shutil.copy(real.path, public_directory / planted)
    elif fault == "full":
        monkeypatch.setattr(
            build_directory.os,
            "write",
            lambda lock, data: len(data) - (str(cache) in path_of(lock)),
        )
    else:
        monkeypatch.setenv("FLAXRES_CACHE", "~nosuchuser/cache")
    compilation_cache.notify.cache_clear()
    capfd.readouterr()
    calls.write_text("")
    for _ in range(2):
        built = Build()
        assert built.wait().flaxres_lanes() > 0
        assert built.path is None
    assert calls.read_text() == "x\n" * 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Compiled programs are not kept for the next run: ")
    assert os.listdir(tmp_path / "temporary") == []


def path_of(descriptor):
    return os.readlink(f"/proc/self/fd/{descriptor}")


def test_no_directory_can_be_written(cache, compiler, monkeypatch, tmp_path):
    compiler(COPY)
    cache.write_text("")
    (tmp_path / "temporary").rmdir()
    failed = Build()
    assert failed.wait() is None
    assert f"{tmp_path}/temporary" in failed.problem
    assert "No such file or directory" in failed.problem


def test_dead_builds_are_removed(cache):
    cache.mkdir()
    live, dead, young = (BuildDirectory(cache) for _ in range(3))
    old = time.time() - build_directory.MIN_AGE - 1
    for path in (live.path, dead.path):
        os.utime(path, (old, old))
    os.close(dead.lock)  # as at the end of its process
    os.close(young.lock)
    for name, age in ((PREVIOUS_NAME, 2 * build_directory.MAX_AGE), ("kernels-abcd_124.so", 0)):
        (cache / name).touch()
        os.utime(cache / name, (time.time() - age,) * 2)
    build_directory.remove_dead_builds(cache)
    assert {path.name for path in cache.iterdir()} == {
        *(live.path.name, young.path.name, "kernels-abcd_124.so")
    }


def test_a_build_stays_locked_while_its_compiler_lives(cache, compiler):
    compiler("sleep 100")
    running = Build()
    lock = os.open(running._directory.path / "lock", os.O_RDWR)
    os.close(running._directory.lock)  # as at the end of this process
    with pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    running._end(os.getpid())
    assert os.listdir(cache) == []
    os.close(lock)


def test_the_end_of_a_program_ends_its_build(cache, compiler, tmp_path):
    compiler(f"echo $$ > {tmp_path}/pid; sleep 100")
    code = "from flaxres.cpu.build import Build; import time; Build(); time.sleep(0.3)"
    environment = {**os.environ, "FLAXRES_CACHE": str(cache)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    assert os.listdir(cache) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGCONT)


def test_each_dtype_has_a_library_of_its_own(cache, compiler):
    calls = compiler(COPY)
    libraries = {}
    for dtype in DTYPES:
        built = Build(KERNELS[dtype])
        libraries[dtype] = built.wait()
        assert built.path.parent == cache
    assert calls.read_text() == "x\n" * 2
    assert len(os.listdir(cache)) == 2
    for dtype, other in (DTYPES, DTYPES[::-1]):
        assert hasattr(libraries[dtype], f"flaxres_convolve_{dtype}")
        assert not hasattr(libraries[dtype], f"flaxres_convolve_{other}")


def test_a_program_builds_only_the_dtype_that_it_needs(cache, compiler):
    compiler(COPY)
    code = """
import sys
from flaxres.cpu import settings
settings.tune()  # starts with float32
for dtype in sys.argv[1:]:
    settings.start_build(dtype)
for build in settings._builds.values():
    build.wait()
print(*settings._builds)
"""
    environment = {**os.environ, "FLAXRES_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    for dtypes in (["float32"], ["float32", "bfloat16"]):
        command = [sys.executable, "-c", code, *dtypes]
        done = subprocess.run(
            command, env=environment, check=True, timeout=60, capture_output=True, text=True
        )
        assert done.stdout.split() == dtypes
        assert len(os.listdir(cache)) == len(dtypes)


def test_the_command_prints_the_paths(cache, compiler):
    compiler(COPY)
    command = [sys.executable, "-m", "flaxres.cpu"]
    environment = {**os.environ, "FLAXRES_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "".join(f"{Build(KERNELS[dtype]).path}\n" for dtype in DTYPES)
    environment["FLAXRES_CACHE"] = "~nosuchuser"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
