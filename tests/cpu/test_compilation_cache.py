"""The cache directory, and JAX's persistent compilation cache in it."""

import os
import subprocess
import sys
import tempfile

import pytest

from flaxres.cpu import compilation_cache
from flaxres.cpu.compilation_cache import cache_directory, trusted_cache

# Compiles a few programs, and prints JAX's cache directory and their results.
COMPILE = """
import jax
from flaxres.cpu import compilation_cache
compilation_cache.MIN_SECONDS = 0
compilation_cache.enable_compilation_cache()
print(jax.config.jax_compilation_cache_dir)
print([int(jax.jit(lambda x, i=i: x * 10 + i)(i)) for i in range(7)])
"""
RESULTS = "[0, 11, 22, 33, 44, 55, 66]"


def test_cache_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("FLAXRES_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "flaxres"
    monkeypatch.setenv("FLAXRES_CACHE", str(tmp_path / "custom"))
    assert cache_directory() == tmp_path / "custom"


def test_one_notice_without_a_cache(monkeypatch, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    for name in (
        file,
        file / "below",
        "~nosuchuser/cache",
        tmp_path / ("x" * 300),
        tmp_path / "dangling",
    ):
        (tmp_path / "dangling").unlink(missing_ok=True)
        (tmp_path / "dangling").symlink_to(tmp_path / "no" / "where")
        compilation_cache.notify.cache_clear()
        monkeypatch.setenv("FLAXRES_CACHE", str(name))
        assert trusted_cache() is trusted_cache() is None
        message = capsys.readouterr().err
        assert message.startswith(f"Compiled programs are not kept for the next run: {name}")
        assert message.endswith("; set FLAXRES_CACHE to a directory that only you can write.\n")
        assert message.count("\n") == 1


def test_a_user_without_a_home_directory(monkeypatch, tmp_path, capsys):
    compilation_cache.notify.cache_clear()
    for name in ("FLAXRES_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 12345)  # not in the list of users
    monkeypatch.chdir(tmp_path)
    assert trusted_cache() is None
    assert "~/.cache/flaxres: no such home directory" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


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


def test_damaged_programs_are_compiled_again(compile_in, tmp_path):
    compile_in()
    (directory,) = tmp_path.iterdir()
    directory.chmod(0o700)
    programs = sorted(directory.glob("*-cache"))
    assert len(programs) >= 7
    flipped = bytearray(programs[2].read_bytes())
    flipped[len(flipped) // 2] ^= 1
    programs[0].write_bytes(b"")
    programs[1].write_bytes(programs[1].read_bytes()[:-20])
    programs[2].write_bytes(flipped)
    for path in programs[3:6]:
        path.unlink()
    (programs[3] / "below").mkdir(parents=True)
    os.mkfifo(programs[4])
    programs[5].symlink_to(programs[6])
    # As if the process had been killed before it wrote the access time.
    programs[6].with_name(programs[6].name.removesuffix("-cache") + "-atime").unlink()
    lock = directory / ".lockfile"
    lock.unlink()
    lock.mkdir()
    done = compile_in()
    assert (done.stdout.splitlines()[1], done.stderr) == (RESULTS, "")
    assert sorted(directory.glob("*-cache")) == programs
    assert len(list(directory.glob("*-atime"))) == len(programs)
    assert all(path.is_file() and not path.is_symlink() for path in [*programs, lock])


def test_programs_that_others_could_write_are_removed(tmp_path):
    directory = tmp_path / "xla"
    directory.mkdir(mode=0o755)
    for name, mode in (("own", 0o644), ("writable", 0o666), ("link", 0o644), ("foreign", 0o644)):
        for suffix in ("cache", "atime"):
            (directory / f"{name}-{suffix}").touch()
            (directory / f"{name}-{suffix}").chmod(mode)
    (directory / "link-cache").unlink()
    (directory / "link-cache").symlink_to(directory / "own-cache")
    if os.geteuid() == 0:
        os.chown(directory / "foreign-cache", 12345, -1)
    else:
        (directory / "foreign-cache").unlink()
    compilation_cache._clean_programs(directory)
    assert {path.name for path in directory.glob("*-cache")} == {"own-cache"}
    assert directory.stat().st_mode & 0o777 == 0o700
    (directory / "own-cache").chmod(0o666)  # by the umask; nobody else enters the directory
    compilation_cache._clean_programs(directory)
    assert {path.name for path in directory.glob("*-cache")} == {"own-cache"}


def test_the_setting_of_jax_takes_precedence(compile_in, tmp_path):
    done = compile_in(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "jax"))
    assert done.stdout.splitlines() == [str(tmp_path / "jax"), RESULTS]


def test_directories_that_others_can_write_are_not_used(compile_in, monkeypatch, capsys):
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        compilation_cache.notify.cache_clear()
        monkeypatch.setenv("FLAXRES_CACHE", name)
        assert trusted_cache() is None
        message = f"other users can write to {name}; set FLAXRES_CACHE to"
        assert message in capsys.readouterr().err
        done = compile_in(JAX_COMPILATION_CACHE_DIR=name)
        assert done.stdout.splitlines() == ["None", RESULTS]
        assert f"other users can write to {name}; set JAX_COMPILATION_CACHE_DIR" in done.stderr
        assert os.listdir(name) == []
