"""The comparison of two runs: equal, or every difference named."""

import shutil

import pytest

from tests.conftest import ROOT, small_config

SCRIPT = ROOT / "tools" / "compare_runs.py"


@pytest.fixture
def pair(digits_run, tmp_path):
    shutil.copytree(digits_run, tmp_path / "one")
    shutil.copytree(digits_run, tmp_path / "other")
    return tmp_path / "one", tmp_path / "other"


def test_equal_runs_are_equal_whatever_their_speed(pair, python):
    path = pair[1] / "metrics.jsonl"
    path.write_text(path.read_text().replace('"images_per_second": ', '"images_per_second": 9'))
    done = python(SCRIPT, *pair)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("equal: ")


def test_a_changed_metric_and_a_changed_weight_are_named(pair, python, config):
    from flaxres.training.train import train_and_evaluate

    config.seed = 1
    shutil.rmtree(pair[1])
    train_and_evaluate(config, pair[1])
    done = python(SCRIPT, *pair)
    assert done.returncode == 1
    assert "metrics.jsonl, step 4: train_loss is " in done.stdout
    assert "checkpoint: params/dense/kernel differs" in done.stdout
    assert small_config().seed == 0


def test_a_directory_without_a_run(tmp_path, python):
    done = python(SCRIPT, tmp_path, tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path} holds no run (metrics.jsonl)\n"
