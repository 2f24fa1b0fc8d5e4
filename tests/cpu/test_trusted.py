"""Checks that only this user can change files, against modes and owners set by hand."""

import grp
import os
import pwd
import tempfile
from pathlib import Path

import pytest

from flaxres.cpu import trusted
from flaxres.cpu.trusted import make_private_directory, open_trusted, untrusted_reason

SOMEBODY = 12345  # a user id that does not exist


@pytest.fixture
def directory():
    """A directory below /tmp that others can enter."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(os.path.realpath(name))


@pytest.mark.parametrize(
    ("upper", "lower", "problem"),
    [
        (0o755, 0o755, ""),
        (0o755, 0o700, ""),
        (0o755, 0o777, "other users can write to {}/upper/lower"),
        (0o755, 0o775, "other users can write to {}/upper/lower"),
        (0o755, 0o1777, "other users can write to {}/upper/lower"),
        (0o775, 0o755, "other users can write to {}/upper"),
        (0o1777, 0o755, ""),  # the sticky bit: others cannot rename `lower`
        (0o700, 0o777, ""),  # nobody else can enter `upper`
    ],
)
def test_modes_of_directories(directory, upper, lower, problem):
    path = directory / "upper" / "lower"
    path.mkdir(parents=True)
    path.chmod(lower)
    path.parent.chmod(upper)
    (directory / "link").symlink_to(path)
    assert (
        untrusted_reason(path) == untrusted_reason(directory / "link") == problem.format(directory)
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change owners")
def test_owners(directory, monkeypatch):
    path = directory / "upper" / "lower"
    path.mkdir(parents=True)
    file = path / "file"
    file.write_text("content")
    os.close(open_trusted(file))
    os.chown(file, SOMEBODY, -1)
    with pytest.raises(PermissionError, match="other users can change this file"):
        open_trusted(file)
    os.chown(path.parent, SOMEBODY, -1)
    assert untrusted_reason(path) == f"{path.parent} belongs to another user (uid {SOMEBODY})"
    os.chown(directory, SOMEBODY, -1)
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    os.chown(path.parent, 0, -1)  # root is trusted
    assert untrusted_reason(path) == ""
    os.close(open_trusted(file))


def test_what_is_not_a_trusted_file(directory):
    file = directory / "file"
    file.write_text("content")
    (directory / "link").symlink_to(file)
    os.mkfifo(directory / "fifo")
    (directory / "directory").mkdir()
    for name in ("link", "fifo", "directory", "missing"):
        with pytest.raises(OSError):  # noqa: PT011
            open_trusted(directory / name)
    for mode, is_trusted in ((0o644, True), (0o664, False), (0o646, False), (0o600, True)):
        file.chmod(mode)
        if is_trusted:
            os.close(open_trusted(file))
        else:
            with pytest.raises(PermissionError):
                open_trusted(file)


@pytest.mark.parametrize(
    ("group", "members", "is_private"),
    [("me", [], True), ("me", ["me"], True), ("me", ["me", "you"], False), ("all", [], False)],
)
def test_the_group_of_one_user(directory, monkeypatch, group, members, is_private):
    """Such groups come with a umask of 002."""
    status = directory.stat()
    user = pwd.struct_passwd(("me", "", 1000, status.st_gid, "", "", ""))
    monkeypatch.setattr(trusted.pwd, "getpwuid", lambda uid: user)
    fields = grp.struct_group((group, "", status.st_gid, members))
    monkeypatch.setattr(trusted.grp, "getgrgid", lambda gid: fields)
    directory.chmod(0o775)
    assert (untrusted_reason(directory) == "") is is_private
    directory.chmod(0o777)
    assert untrusted_reason(directory) != ""


def test_new_directories_are_private_whatever_the_umask(directory):
    umask = os.umask(0)
    try:
        make_private_directory(directory / "a" / "b")
        make_private_directory(directory / "a" / "b")
    finally:
        os.umask(umask)
    assert [(directory / name).stat().st_mode & 0o777 for name in ("a", "a/b")] == [0o700, 0o700]
    (directory / "file").touch()
    (directory / "dangling").symlink_to(directory / "nowhere")
    for name in ("file", "file/below", "dangling"):
        with pytest.raises(OSError):  # noqa: PT011
            make_private_directory(directory / name)
