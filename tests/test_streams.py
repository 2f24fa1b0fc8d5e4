import errno
import os
import sys
import threading

import pytest

from flaxres.streams import OutputError, _open_stream


def write_to(path, raises):
    """Writes twice to a file as a standard stream does; returns the descriptor's error, if any."""
    descriptor = os.open(path, os.O_WRONLY)
    stream = _open_stream(sys.__stdout__, descriptor, raises)
    try:
        for _ in range(2):
            stream.write("text\n")
            stream.flush()
    finally:
        stream.close()  # writes what is buffered, which fails no second time
        os.close(descriptor)


def test_a_full_file():
    write_to("/dev/full", raises=False)
    with pytest.raises(OutputError, match=r"standard output cannot be written \(No space left"):
        write_to("/dev/full", raises=True)


def test_a_pipe_without_a_reader():
    for raises in (False, True):
        reader, writer = os.pipe()
        stream = _open_stream(sys.__stdout__, writer, raises)
        os.close(reader)
        stream.write("text\n" * 3)
        if raises:
            with pytest.raises(OutputError) as caught:
                stream.flush()
            assert (str(caught.value), caught.value.exit_code) == ("", 141)  # as SIGPIPE
        stream.close()
        os.close(writer)


def test_a_pipe_that_does_not_block():
    """All text arrives, although the pipe has no space at first."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    text = "x" * 200_000 + "\n"
    stream = _open_stream(sys.__stdout__, writer, raises=True)
    sizes = []

    def read():
        while data := os.read(reader, 65_536):
            sizes.append(len(data))

    thread = threading.Thread(target=read)
    thread.start()
    stream.write(text)
    stream.close()
    os.close(writer)
    thread.join()
    os.close(reader)
    assert sum(sizes) == len(text)


def test_characters_that_a_stream_does_not_have():
    reader, writer = os.pipe()
    stream = _open_stream(None, writer, raises=True)
    stream.write(os.fsdecode(b"run-\xff") + "\n")
    stream.close()
    os.close(writer)
    assert os.read(reader, 100) == b"run-\\udcff\n"
    os.close(reader)


def test_a_closed_terminal_needs_no_output(monkeypatch):
    master, slave = os.openpty()
    stream = _open_stream(None, slave, raises=True)
    os.close(master)
    stream.write("text\n")
    stream.flush()
    stream.close()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        os.write(slave, b"text")
    os.close(slave)
