"""Caches that are planted, damaged or missing, and compilers that fail."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from flaxres.cpu.build import Build
from flaxres.cpu.kernel_files import KERNELS
from tests.commands import assert_error, run_command

build, build_bfloat16 = builds = [Build(sources) for sources in KERNELS.values()]
pytestmark = pytest.mark.skipif(
    not all(b.wait() and b.path for b in builds), reason="needs a C++ compiler and a cache"
)
NOT_KEPT = "Compiled programs are not kept for the next run: "
# A library that writes a file when it is loaded.
PLANTED = '#include <cstdio>\n__attribute__((constructor)) void f() { fclose(fopen("%s", "w")); }\n'


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A library that writes a file when it is loaded, and this file."""
    directory = tmp_path_factory.mktemp("planted")
    (directory / "planted.cc").write_text(PLANTED % (directory / "executed"))
    command = ["c++", "-shared", "-fPIC", "planted.cc", "-o", "planted.so"]
    subprocess.run(command, cwd=directory, check=True)
    return directory / "planted.so", directory / "executed"


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache that only this user can write, and a compiler that copies the kernels."""
    compiler = tmp_path / "compiler"
    compiler.write_text(
        '#!/bin/sh\nfor last; do :; done\ncase "$*" in\n'
        f'*BFLOAT16*) cp {build_bfloat16.path} "$last" ;;\n*) cp {build.path} "$last" ;;\nesac\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("FLAXRES_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir(mode=0o700)
    return tmp_path / "cache"


@pytest.fixture
def public_directory(tmp_path):
    """A directory that all users can enter and write; pytest's own are private."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


def plant(library, directory):
    """Stores a library under the names that the kernels have, or had in version 0.1.0."""
    started = Build()
    started.wait()
    started.path.unlink()
    content = library.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:32]
    for name in (f"kernels-{started.key}-{digest}.so", f"kernels-{started.key}.so"):
        (directory / name).write_bytes(content)
    return directory / f"kernels-{started.key}-{digest}.so"


def build_kernels(**environment):
    """Builds or finds the kernels in a process of its own; returns its outcome."""
    return run_command("flaxres.cpu", env=environment)


def test_a_library_of_this_user_is_executed(cache, planted):
    """The following tests would notice if the planted library were executed."""
    library, executed = planted
    path = plant(library, cache)
    outcome = build_kernels()
    assert executed.exists()
    assert outcome.code == 0
    assert str(path) not in outcome.stdout.splitlines()  # it has none of the functions
    executed.unlink()


def test_a_library_in_a_directory_that_others_can_write(cache, planted, public_directory):
    library, executed = planted
    plant(library, public_directory)
    before = sorted(os.listdir(public_directory))
    outcome = build_kernels(FLAXRES_CACHE=public_directory)
    (line,) = outcome.stderr.splitlines()
    assert line.startswith(f"{NOT_KEPT}other users can write to {public_directory}; set FLAXRES_")
    assert (outcome.code, outcome.stdout) == (1, "")  # there is no path to print
    assert sorted(os.listdir(public_directory)) == before
    assert not executed.exists()


@pytest.mark.parametrize("fault", ["owner", "mode", "link", "link to a directory", "digest"])
def test_a_library_that_others_could_have_written(cache, planted, public_directory, fault):
    library, executed = planted
    path = plant(library, cache)
    if fault == "owner":
        if os.geteuid() != 0:
            pytest.skip("only root can change owners")
        os.chown(path, 12345, -1)
    elif fault == "mode":
        path.chmod(0o646)
    elif fault == "link":
        shutil.move(path, public_directory)
        path.symlink_to(public_directory / path.name)
    elif fault == "link to a directory":
        for file in cache.iterdir():
            shutil.move(file, public_directory)
        cache.rmdir()
        cache.symlink_to(public_directory)
    else:
        path.rename(path.with_name(path.name.replace(path.stem[-8:], "0" * 8)))
    outcome = build_kernels()
    if fault == "link to a directory":
        assert outcome.stderr.startswith(f"{NOT_KEPT}other users can write to {public_directory};")
    else:
        assert (outcome.code, outcome.stderr) == (0, "")
        built = [Path(line).read_bytes() for line in outcome.stdout.splitlines()]
        assert built == [b.path.read_bytes() for b in builds]
    assert not executed.exists()


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("true", "true failed: it wrote no library"),
        ("false", "false failed: exit code 1"),
        ("/nonexistent/c++ -m64", "/nonexistent/c++: No such file or directory"),
        ("c++ --no-such-option", "c++ failed: c++: error: unrecognized command-line option"),
        ("'", "CXX=': No closing quotation"),
        ("\x1b[31m", "\\x1b[31m: No such file or directory"),
    ],
)
def test_compilers_that_fail(cache, command, problem):
    assert_error(build_kernels(CXX=command), "the CPU kernels cannot be built", problem, code=1)
    assert list(cache.iterdir()) == []


def test_training_without_cache_and_compiler(tmp_path):
    (tmp_path / "file").write_text("content")
    flags = ("--config=configs/digits.py:plain-8", "--config.model.widths=(4,4,4)")
    flags += ("--config.num_steps=2", "--config.boundaries=()", "--config.batch_size=16")
    environment = {"FLAXRES_CACHE": tmp_path / "file", "CXX": "/nonexistent/c++"}
    outcome = run_command("flaxres.main", *flags, f"--workdir={tmp_path}/run", env=environment)
    assert outcome.code == 0, outcome
    assert "after 2 steps" in outcome.stdout
    kept, built, *steps = outcome.stderr.splitlines()
    assert kept.startswith(f"{NOT_KEPT}{tmp_path}/file: Not a directory; set FLAXRES_CACHE to a ")
    assert built.startswith("The CPU kernels cannot be built (/nonexistent/c++: No such file or ")
    assert all("  plain-8  step" in line for line in steps)
    assert (tmp_path / "file").read_text() == "content"
