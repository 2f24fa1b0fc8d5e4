import errno
import os
import tempfile

import pytest

from flaxres.errors import CheckpointError
from flaxres.run.checkpoint_files import (
    checkpoint_steps,
    make_directory,
    move_damaged,
    unknown_entries,
)


def test_steps_are_names_without_leading_zeros(tmp_path):
    assert checkpoint_steps(tmp_path) == []
    make_directory(tmp_path / "run")
    for name in ("10", "9", "03", "foo", ".hidden", "5.orbax-checkpoint-tmp"):
        (tmp_path / "run/checkpoints" / name).mkdir()
    (tmp_path / "run/checkpoints/7").write_text("a file")
    assert checkpoint_steps(tmp_path / "run") == [9, 10]
    assert unknown_entries(tmp_path / "run") == ["03", "7", "foo"]


def test_damaged_checkpoints_of_one_step_are_all_kept(tmp_path):
    for number in range(2):
        make_directory(tmp_path)
        (tmp_path / "checkpoints/3").mkdir()
        (tmp_path / f"checkpoints/3/{number}").touch()
        move_damaged(tmp_path, "3")
    assert checkpoint_steps(tmp_path) == []
    assert sorted(os.listdir(tmp_path / "checkpoints_damaged")) == ["3-0", "3-1"]
    assert os.listdir(tmp_path / "checkpoints_damaged/3-1") == ["1"]
    with pytest.raises(CheckpointError, match=r"4 is damaged and cannot be moved to .*; move it"):
        move_damaged(tmp_path, "4")


def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch):
    def fail(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)  # root may write everywhere
    with pytest.raises(CheckpointError, match=r"checkpoints cannot be written \(Permission denied"):
        make_directory(tmp_path)
