"""The command line of the degradation experiment, with real processes and small models."""

import json
import time

import pytest

from tests.experiments.results.test_runs import write_run

SMALL = (
    *("-m", "experiments.degradation", "--config=configs/digits.py"),
    *("--config.num_steps=12", "--config.boundaries=(6,9)", "--config.batch_size=16"),
    *("--config.model.widths=(4,4,4)", "--config.log_every=4", "--config.eval_every=4"),
)


def is_override(argument):
    """Returns True for overrides, which must follow the config file."""
    return argument.startswith("--config.")


def test_trains_draws_skips_finished_runs_and_adds_runs(python, tmp_path):
    done = python(*SMALL, "--models=plain-8,resnet-8", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "resnet-8/seed-0: finished" in done.stderr
    assert "| plain-8 |" in done.stdout
    for name in ("figure6.png", "figure6.svg", "table.md", "table.csv"):
        assert str(tmp_path / name) in done.stdout
        assert (tmp_path / name).stat().st_size > 50
    before = (tmp_path / "plain-8/seed-0/metrics.jsonl").stat().st_mtime_ns

    done = python(*SMALL, "--models=plain-8", "--seeds=0,1", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "plain-8/seed-0: started" not in done.stderr
    assert "(2 seeds)" in done.stdout
    assert "| resnet-8 |" in done.stdout
    assert (tmp_path / "plain-8/seed-0/metrics.jsonl").stat().st_mtime_ns == before
    config = json.loads((tmp_path / "plain-8/seed-1/config.json").read_text())
    assert (config["seed"], config["batch_size"], config["boundaries"]) == (1, 16, [6, 9])


def test_plot_only_draws_existing_runs_and_trains_nothing(python, tmp_path):
    write_run(tmp_path, "plain-20", errors=(50.0,))
    start = time.monotonic()
    done = python("-m", "experiments.degradation", "--plot_only", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert (
        "| plain-20 | 1,020 | 10 of 30 (unfinished) | latest: 50.00 | latest: 51.00 |"
        in done.stdout
    )
    assert (tmp_path / "figure6.png").exists()
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("--models=plain-8,resnet-9",), 2, "depth must be 6n+2"),
        (("--models=alexnet",), 2, "model name must be"),
        (("--seeds=a",), 2, "--seeds must be integers from 0 to"),
        (
            ("--config=configs/digits.py:resnet-20", "--config.seed=1"),
            2,
            "must not name a model here, got 'resnet-20'",
        ),
        (("--plot_only",), 1, "no run with metrics"),
    ],
)
def test_invalid_input_is_reported_before_training(python, tmp_path, arguments, code, part):
    small = SMALL[3:] if arguments[0].startswith("--config=") else SMALL[2:]
    workdir = f"--workdir={tmp_path / 'new'}"
    done = python(*SMALL[:2], workdir, *sorted((*small, *arguments), key=is_override))
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert part in lines[0]
    assert not (tmp_path / "new").exists()


def test_a_diverging_model_does_not_stop_the_others(python, tmp_path):
    done = python(
        *SMALL,
        *("--models=plain-8,resnet-8", f"--workdir={tmp_path}", "--config.learning_rate=1e30"),
    )
    assert done.returncode == 1
    assert "2 of 2 runs failed: " in done.stderr
    assert "plain-8/seed-0: failed: training diverged" in done.stderr
    assert "resnet-8/seed-0: failed: training diverged" in done.stderr
    assert "Traceback" not in done.stderr
