"""The cache directory, and JAX's persistent compilation cache in it."""

import os
import subprocess
import sys

import pytest

from flaxres.cpu.compilation_cache import cache_directory

COMPILE = """
import jax
from flaxres.cpu import compilation_cache
compilation_cache.MIN_SECONDS = 0
compilation_cache.enable_compilation_cache()
print(jax.config.jax_compilation_cache_dir)
jax.jit(lambda x: x + 1)(1.0)
"""


def test_cache_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("FLAXRES_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "flaxres"
    monkeypatch.setenv("FLAXRES_CACHE", str(tmp_path / "custom"))
    assert cache_directory() == tmp_path / "custom"


@pytest.fixture
def compile_in(tmp_path):
    """Returns a function that compiles a program in a new process, with a cache in tmp_path."""

    def run(**environment):
        environment = {"FLAXRES_CACHE": str(tmp_path), "JAX_PLATFORMS": "cpu"} | environment
        done = subprocess.run(
            [sys.executable, "-c", COMPILE],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


def test_programs_are_stored_again_after_a_process_was_killed(compile_in, tmp_path):
    compile_in()
    (directory,) = tmp_path.iterdir()
    programs = sorted(directory.glob("*-cache"))
    assert programs
    for program in programs:  # as if the process had been killed before it wrote them
        program.with_name(program.name.removesuffix("-cache") + "-atime").unlink()
    done = compile_in()
    assert "persistent" not in done.stderr
    assert sorted(directory.glob("*-cache")) == programs
    assert len(list(directory.glob("*-atime"))) == len(programs)


def test_the_setting_of_jax_takes_precedence(compile_in, tmp_path):
    done = compile_in(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "jax"))
    assert done.stdout.strip() == str(tmp_path / "jax")


def test_a_directory_that_cannot_be_created(compile_in, tmp_path):
    (tmp_path / "file").write_text("")
    done = compile_in(FLAXRES_CACHE=str(tmp_path / "file"))
    assert done.stdout.strip() == "None"
