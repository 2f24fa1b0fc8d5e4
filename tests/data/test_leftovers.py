"""Semaphores of killed processes: whose are removed, and that workers end by themselves."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing import synchronize
from pathlib import Path

import pytest

from flaxres.data import leftovers
from flaxres.data.leftovers import remove_leftovers
from tests.conftest import ROOT
from tests.data.jpegs import write_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/shm")

STREAM = """
import sys
from flaxres.data.decode_workers import DecodeStream
from tests.data.test_decode_workers import make_decoder, make_long_schedule
stream = DecodeStream(make_long_schedule(), make_decoder(sys.argv[1]), workers=1, ahead=2)
next(stream)
print("started", flush=True)
while True:
    next(stream)
"""


def processes_of_session(session):
    """Returns the command of each process of a session that has not ended, by its number."""
    commands = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                commands[int(path.name)] = (path / "cmdline").read_text()
        except OSError:
            continue
    return commands


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


@pytest.mark.slow
def test_a_killed_stream_leaves_nothing_after_the_next_one(tmp_path):
    write_folder(tmp_path, sides=(14, 30))
    before = set(os.listdir("/dev/shm"))
    process = subprocess.Popen(
        [sys.executable, "-c", STREAM, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == b"started\n"
        commands = processes_of_session(process.pid)
        (tracker,) = [n for n, command in commands.items() if "resource_tracker import" in command]
        assert len(commands) == 3  # and one worker

        def own_names():
            prefix = f"sem.flaxres-{process.pid}-"
            return [name for name in os.listdir("/dev/shm") if name.startswith(prefix)]

        assert own_names()
        remove_leftovers()  # not those of a live process
        assert own_names()
        os.kill(tracker, signal.SIGKILL)
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not processes_of_session(process.pid))  # the worker ends by itself
        left = set(os.listdir("/dev/shm")) - before
        assert not any(name.startswith("psm_") for name in left)
        assert own_names()
        remove_leftovers()
        assert own_names() == []
    finally:
        process.kill()
        process.communicate()


def test_only_those_of_own_ended_processes_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(leftovers, "SEMAPHORES", tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own, start = os.getpid(), leftovers._start_time(os.getpid())
    namespace = os.stat("/proc/self/ns/pid").st_ino
    kept = [
        f"sem.flaxres-{own}-{start}-{namespace}-abcdefgh",  # a live process
        f"sem.flaxres-{ended.pid}-1-{namespace + 1}-abcdefgh",  # another container
        *("sem.mp-abcdefgh", "psm_abcdefgh", f"sem.flaxres-x-1-{namespace}-abcdefgh", "flaxres-1"),
    ]
    removed = [
        f"sem.flaxres-{ended.pid}-1-{namespace}-abcdefgh",
        f"sem.flaxres-{own}-{start - 1}-{namespace}-a_cdefgh",  # its number was given to this one
    ]
    for name in (*kept, *removed):
        (tmp_path / name).touch()
    directory = tmp_path / f"sem.flaxres-{ended.pid}-2-{namespace}-abcdefgh"
    directory.mkdir()
    remove_leftovers()
    assert {path.name for path in tmp_path.iterdir()} == {*kept, directory.name}
    (tmp_path / removed[0]).touch()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)  # another user's
    remove_leftovers()
    assert (tmp_path / removed[0]).exists()
    monkeypatch.setattr(leftovers, "SEMAPHORES", tmp_path / "none")
    remove_leftovers()


def test_semaphores_are_named_after_their_process(monkeypatch):
    import joblib  # noqa: F401 (scikit-learn imports it, and it names semaphores in its own way)

    monkeypatch.setattr(synchronize.SemLock, "_make_name", synchronize.SemLock._make_name)
    leftovers.name_semaphores()
    name = multiprocessing.get_context("spawn").Lock()._semlock.name
    process, start, _ = leftovers.PATTERN.fullmatch(f"sem.{name[1:]}").groups()
    assert (int(process), int(start)) == (os.getpid(), leftovers._start_time(os.getpid()))
