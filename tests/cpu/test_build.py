"""Builds of the kernels: caching, failures, and training without them."""

import os
import shutil
import stat
import subprocess
import sys

import pytest

from flaxres.cpu import build
from flaxres.cpu.build import Build

pytestmark = pytest.mark.skipif(
    not Build().wait(), reason="needs a C++ compiler"
)  # the first use also builds the kernels


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FLAXRES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fake_compiler(tmp_path, monkeypatch, script):
    """Makes a shell script the C++ compiler."""
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(path))


def test_the_library_is_built_once(empty_cache, monkeypatch, tmp_path):
    fake_compiler(
        tmp_path, monkeypatch, f'echo x >> {tmp_path}/calls; for last; do :; done; echo > "$last"'
    )
    first = Build().wait()
    assert first.parent == empty_cache
    assert first.name.startswith("kernels-")
    assert Build().wait() == first
    assert (tmp_path / "calls").read_text() == "x\n"
    assert os.listdir(empty_cache) == [first.name]


def test_changed_sources_change_the_key(empty_cache, monkeypatch, tmp_path):
    fake_compiler(tmp_path, monkeypatch, "exit 0")
    original = Build()
    original.wait()
    shutil.copytree(build.SOURCES, tmp_path / "cc")
    with (tmp_path / "cc" / "norm.h").open("a") as header:
        header.write("//")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "cc")
    changed = Build()
    changed.wait()
    assert original.key != changed.key


def test_a_compiler_that_fails_leaves_nothing_behind(empty_cache, monkeypatch, tmp_path):
    fake_compiler(tmp_path, monkeypatch, "echo note >&2; echo 'x.cc:1: error: no good' >&2; exit 1")
    failed = Build()
    assert failed.wait() is None
    assert failed.problem.endswith("compiler failed: x.cc:1: error: no good")
    assert os.listdir(empty_cache) == []


def test_no_compiler(empty_cache, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    failed = Build()
    assert failed.wait() is None
    assert failed.problem == "no C++ compiler (c++, g++, clang++) is installed"


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLAXRES_CACHE", str(tmp_path / "file"))
    failed = Build()
    assert failed.wait() is None
    assert "file" in failed.problem


def test_training_works_without_the_kernels(empty_cache, tmp_path):
    environment = {**os.environ, "CXX": "/nonexistent/c++", "FLAXRES_CACHE": str(empty_cache)}
    arguments = ["--config=configs/digits.py:resnet-8", f"--workdir={tmp_path / 'run'}"]
    arguments += ["--config.num_steps=2", "--config.boundaries=()"]
    done = subprocess.run(
        [sys.executable, "-m", "flaxres.main", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "The CPU kernels cannot be built (/nonexistent/c++: No such file" in done.stderr
    assert (tmp_path / "run" / "metrics.jsonl").exists()
