import os

import pytest

from flaxres.errors import DamagedFileError
from flaxres.run import text_files
from flaxres.run.text_files import line_blocks, lines_from_end, read_regular


@pytest.mark.parametrize("block_bytes", [1, 3, 7, 1000])
@pytest.mark.parametrize("text", [b"", b"x", b"\n", b"a\n", b"a\nbb\n\nccc\n", b"\n\na\nhalf"])
def test_lines_from_both_ends(tmp_path, monkeypatch, text, block_bytes):
    monkeypatch.setattr(text_files, "BLOCK_BYTES", block_bytes)
    path = tmp_path / "file"
    path.write_bytes(text)
    *complete, last = text.split(b"\n")
    forward = [line for block in line_blocks(path) for line in block.split(b"\n")]
    assert forward == complete
    with_last = [line for block in line_blocks(path, complete=False) for line in block.split(b"\n")]
    assert with_last == complete + [last] * (last != b"")
    backward = list(lines_from_end(path))
    assert [line for _, line in backward] == complete[::-1]
    for end, line in backward:
        assert text[:end].endswith(line + b"\n")


def test_files_that_are_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 10)
    monkeypatch.setattr(text_files, "BLOCK_BYTES", 4)
    path = tmp_path / "file"
    path.write_bytes(b"a\n" + 30 * b"x" + b"\n")
    for read in (line_blocks, lines_from_end):
        with pytest.raises(DamagedFileError, match="has a line of more than 10 bytes"):
            list(read(path))
    with pytest.raises(DamagedFileError, match="must have at most 32 bytes, but it has more"):
        read_regular(path, 32)
    assert len(read_regular(path, 33)) == 33


def test_only_regular_files_are_read(tmp_path):
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("directory", "pipe", "link"):
        for read in (line_blocks, lines_from_end):
            with pytest.raises(DamagedFileError, match=f"{name} cannot be read: {name} is a"):
                list(read(tmp_path / name))
