import os
import shutil
import subprocess
import sys

import pytest

from flaxres.errors import InUseError, WorkdirError
from flaxres.run.lock import lock
from tests.conftest import ROOT

HOLD_LOCK = """
import pathlib, sys
from flaxres.run.lock import lock
with lock(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_two_processes_cannot_lock_the_same_directory(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InUseError, match=f"in use by process {other.pid} on "), lock(tmp_path):
            pass
        other.kill()  # the operating system releases the lock
        other.wait()
        with lock(tmp_path):
            pass
    with lock(tmp_path):
        pass


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda lock, victim: lock.symlink_to(victim), OSError, "lock is a symbolic link instead"),
        (lambda lock, _: lock.symlink_to("nowhere"), OSError, "lock is a symbolic link instead"),
        (lambda lock, _: lock.mkdir(), OSError, "lock is a directory instead"),
        (lambda lock, _: os.mkfifo(lock), OSError, "lock is a named pipe instead"),
        (lambda lock, victim: os.link(victim, lock), WorkdirError, "is not a lock of flaxres"),
        (lambda lock, _: lock.write_text("keep me"), WorkdirError, "is not a lock of flaxres"),
    ],
)
def test_only_a_lock_file_of_flaxres_is_written(tmp_path, make, error, message):
    victim = tmp_path / "victim"
    victim.write_text("keep me")
    directory = tmp_path / "run"
    directory.mkdir()
    make(directory / "lock", victim)
    before = os.lstat(directory / "lock")
    with pytest.raises(error, match=message), lock(directory):
        pass
    assert victim.read_text() == "keep me"
    assert os.lstat(directory / "lock").st_ino == before.st_ino
    assert os.listdir(directory) == ["lock"]
    if (directory / "lock").is_file():
        assert (directory / "lock").read_text() == "keep me"


def test_a_directory_that_moves(tmp_path):
    directory, moved = tmp_path / "run", tmp_path / "moved"
    directory.mkdir()
    with lock(directory) as locked:
        locked.check_in_place()
        directory.rename(moved)
        with pytest.raises(WorkdirError, match=f"run was renamed to {moved} while"):
            locked.check_in_place()
        directory.mkdir()  # another directory of the same name
        with pytest.raises(WorkdirError, match=f"run was renamed to {moved} while"):
            locked.check_in_place()
        shutil.rmtree(moved)
        with pytest.raises(WorkdirError, match="run was renamed or deleted while it was in use"):
            locked.check_in_place()
