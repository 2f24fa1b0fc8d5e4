import errno
import os
import socket

import pytest

from flaxres.data import image_files
from flaxres.data.decode import MAX_PIXELS, BrokenImageError
from flaxres.data.image_files import MAX_FILE_BYTES, read_image_file
from flaxres.errors import DatasetError


def test_contents_of_files_and_of_their_links(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"content")
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    assert read_image_file(str(tmp_path / "a.jpg")) == b"content"
    assert read_image_file(str(tmp_path / "link.jpg")) == b"content"
    assert MAX_FILE_BYTES > 8 * MAX_PIXELS  # bytes of 16-bit RGBA


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("pipe", "is a named pipe, not an image file"),
        ("link to pipe", "is a named pipe, not an image file"),
        ("socket", "is a socket, not an image file"),
        ("directory", "is a directory, not an image file"),
        ("/dev/zero", "is a device, not an image file"),
        ("nowhere", "cannot be read: No such file or directory"),
        ("link to nowhere", "cannot be read: No such file or directory"),
        ("loop", "cannot be read: Too many levels of symbolic links"),
        ("n" * 300, "cannot be read: File name too long"),
        ("large", f"has 3,221,225,472 bytes; an image file may have {MAX_FILE_BYTES:,}"),
    ],
)
def test_other_things_than_files_are_never_opened(tmp_path, monkeypatch, name, problem):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.mkdir("directory")
    os.symlink("pipe", "link to pipe")
    os.symlink("nothing", "link to nowhere")
    os.symlink("loop", "loop")
    with open("large", "wb") as file:
        file.truncate(3 * 2**30)  # no blocks on the disk
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(BrokenImageError) as caught:
            read_image_file(name)
    assert caught.value.problem == f"{name} {problem}"


def test_a_file_that_is_replaced_by_a_pipe_does_not_block(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"content")
    regular, pipe = os.stat(tmp_path / "file"), tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr(image_files.os, "stat", lambda path: regular)
    with pytest.raises(BrokenImageError, match="is a named pipe"):
        read_image_file(str(pipe))


@pytest.mark.parametrize(
    ("code", "error_type"),
    [(errno.EACCES, BrokenImageError), (errno.EIO, DatasetError), (errno.EMFILE, DatasetError)],
)
def test_failures_of_the_machine_are_not_broken_images(tmp_path, monkeypatch, code, error_type):
    (tmp_path / "a.jpg").write_bytes(b"content")

    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(image_files.os, "open", fail)
    with pytest.raises(DatasetError, match=f"a.jpg cannot be read: {os.strerror(code)}") as caught:
        read_image_file(str(tmp_path / "a.jpg"))
    assert type(caught.value) is error_type
