"""Tests of the helper that runs command lines, against processes of their own."""

import pytest

from tests.commands import assert_error, run_command
from tests.conftest import ROOT


@pytest.mark.parametrize(
    "args",
    [
        ("--mode=summary", "--config=configs/digits.py:plain-8"),
        ("--config=configs/digits.py", "--config.seeds=1"),
        ("--mode=eval",),
    ],
)
def test_equals_a_process_of_its_own(args):
    forked = run_command("flaxres.main", *args)
    fresh = run_command("flaxres.main", *args, env={"LC_ALL": "C.UTF-8"})
    assert forked == fresh


def test_training(tmp_path):
    flags = ("--config=configs/digits.py:plain-8", "--config.model.widths=(4,4,4)")
    flags += ("--config.num_steps=4", "--config.boundaries=(2,3)", "--config.batch_size=16")
    first = run_command("flaxres.main", *flags, f"--workdir={tmp_path}/run")
    assert first.code == 0, first
    assert "after 4 steps" in first.stdout
    again = run_command("flaxres.main", *flags, f"--workdir={tmp_path}/run")
    assert (again.code, again.stderr) == (0, "")
    assert "is finished" in again.stdout


def test_a_command_that_takes_too_long(tmp_path):
    (tmp_path / "sleep.py").write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(TimeoutError, match=r"took more than 0\.2 s"):
        run_command("sleep", cwd=tmp_path, timeout=0.2)


def test_an_error():
    outcome = run_command("flaxres.main", f"--config={ROOT}/configs/digits.py:resnet-9")
    assert_error(outcome, "depth must be", code=2)
