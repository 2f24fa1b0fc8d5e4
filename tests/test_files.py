import os
import stat
import threading

import pytest

from flaxres.files import (
    open_regular,
    read_regular,
    remove_temporary_files,
    write_atomically,
)


def test_a_file_is_replaced_and_nothing_else_remains(tmp_path):
    previous_mask = os.umask(0o027)
    try:
        write_atomically(tmp_path / "x", "one")
        write_atomically(tmp_path / "x", b"two")
        write_atomically(tmp_path / ("n" * 255), "\udcff\n")
    finally:
        os.umask(previous_mask)
    assert read_regular(tmp_path / "x") == b"two"
    assert read_regular(tmp_path / ("n" * 255)) == b"\\udcff\n"
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "directory", "device"])
def test_only_regular_files_are_opened_and_replaced(tmp_path, kind):
    victim, path = tmp_path / "victim", tmp_path / "path"
    victim.write_text("keep me")
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))  # like /dev/null
        except PermissionError:
            pytest.skip("only root can make devices")
    name = {"pipe": "a named pipe", "dangling link": "a symbolic link", "link": "a symbolic link"}
    message = f"path is {name.get(kind, 'a ' + kind)} instead of a regular file"
    before = os.lstat(path)
    for call in (
        lambda: write_atomically(path, "x"),
        lambda: read_regular(path),
        lambda: open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT),
    ):
        with pytest.raises(OSError, match=message):
            call()
    assert os.lstat(path).st_ino == before.st_ino
    assert victim.read_text() == "keep me"
    assert sorted(os.listdir(tmp_path)) == ["path", "victim"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_atomically(tmp_path / "x", "one")

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "x", "two")
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "one"


def test_threads_write_the_same_file(tmp_path):
    threads = [
        threading.Thread(target=write_atomically, args=(tmp_path / "x", str(i) * 10_000))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set((tmp_path / "x").read_text())) == 1
    assert os.listdir(tmp_path) == ["x"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    for name in (".flaxres-12-0123abcd", "config.json.tmp12", "metrics.jsonl.tmp3"):
        (tmp_path / name).write_text("half of a fi")
    for name in ("config.json", ".flaxres-notes", "my.tmp12"):
        (tmp_path / name).write_text("keep me")
    (tmp_path / ".flaxres-12-00000000").symlink_to("config.json")
    remove_temporary_files(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [
        *(".flaxres-12-00000000", ".flaxres-notes", "config.json", "my.tmp12")
    ]
