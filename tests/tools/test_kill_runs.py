"""The tool that kills runs: a killed and damaged run ends like an undisturbed one."""

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_a_killed_and_damaged_run(python, tmp_path):
    flags = ["--config=configs/digits.py:resnet-8", "--config.num_steps=120"]
    flags += ["--config.boundaries=(60,90)", "--config.batch_size=32", "--config.eval_every=10"]
    flags += [
        "--config.model.widths=(4,8,8)",
        "--config.log_every=4",
        "--config.checkpoint_every=5",
    ]
    tool = [ROOT / "tools" / "kill_runs.py", tmp_path, "--kills=3", "--damage_every=2"]
    done = python(*tool, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal after 3 kills: 36 records" in done.stdout
    assert "flipped a bit of checkpoints/" in done.stdout
