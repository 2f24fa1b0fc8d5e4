"""The command line of the reproduction, with real processes and small models."""

import csv
import json
import shutil

import pytest

from tests.commands import run_command

pytestmark = pytest.mark.slow
SMALL = (
    *("-m", "experiments.reproduction", "--config=configs/digits.py"),
    *("--models=plain-8", "--deep_models=plain-14", "--seeds=2", "--workers=1"),
    *("--config.num_steps=12", "--config.boundaries=(6,9)", "--config.batch_size=16"),
    *("--config.model.widths=(4,4,4)", "--config.log_every=4", "--config.eval_every=4"),
)
NAMES = ["plain-8/seed-0", "plain-14/seed-0", "plain-8/seed-1", "plain-14/seed-1"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory that the tests of this module share, in their order."""
    return tmp_path_factory.mktemp("reproduction")


@pytest.fixture
def reproduce(python, directory):
    """Runs the command with further flags; returns the completed process."""
    directories = (f"--workdir={directory / 'runs'}", f"--results={directory / 'results'}")
    return lambda *flags: python(*SMALL, *directories, *flags)


def test_runs_have_priorities_and_results_are_exported(reproduce, directory):
    done = reproduce("--drop_checkpoints")
    assert done.returncode == 0, done.stderr
    finished = [line.split(":")[0] for line in done.stderr.splitlines() if ": finished" in line]
    assert finished == NAMES
    for name in NAMES:
        exported = {path.name for path in (directory / "results" / name).iterdir()}
        assert exported == {"config.json", "info.json", "metrics.csv", "responses.csv"}
        assert not (directory / "runs" / name / "checkpoints").exists()
    with (directory / "results/plain-14/seed-0/responses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    assert all(float(row["std"]) > 0 for row in rows)
    for figure in ("figure1", "figure6", "figure7"):
        assert (directory / "results" / f"{figure}.png").stat().st_size > 5_000
    assert "(2 seeds)" in (directory / "results/table.md").read_text()
    assert "weight decay on all parameters" in done.stdout


def test_runs_with_results_are_not_trained_again(reproduce, directory):
    shutil.rmtree(directory / "runs")
    shutil.rmtree(directory / "results/plain-8/seed-1")
    done = reproduce()
    assert done.returncode == 0, done.stderr
    assert "3 of 4 runs are finished" in done.stderr
    trained = [line for line in done.stderr.splitlines() if ": finished" in line]
    assert len(trained) == 1
    assert "plain-8/seed-1" in trained[0]


def test_results_of_another_config_are_refused(reproduce):
    done = reproduce("--config.learning_rate=0.2")
    assert done.returncode == 1
    assert "holds results of another config: learning_rate is" in done.stderr
    assert "Traceback" not in done.stderr


def test_time_limit_and_pytorch_runs(python, directory):
    runs, results = directory / "slices", directory / "slices-results"
    command = (*SMALL, f"--workdir={runs}", f"--results={results}", "--config.num_steps=100000")
    flags = ("--models=resnet-8", "--deep_models=", "--seeds=1", "--config.checkpoint_every=50")
    pytorch_run = runs / "pytorch" / "resnet-8" / "seed-0"
    done = python(*command, *flags, "--minutes=0.25")
    assert done.returncode == 0, done.stderr
    first_stop = int(
        json.loads((runs / "resnet-8/seed-0/metrics.jsonl").read_text().split("\n")[-2])["step"]
    )
    assert 0 < first_stop < 100_000
    shutil.copytree(
        runs / "resnet-8/seed-0", pytorch_run, ignore=shutil.ignore_patterns("checkpoints")
    )
    done = python(*command, *flags, "--minutes=0.25")
    assert done.returncode == 0, done.stderr
    assert "started at step" in done.stderr
    with (results / "resnet-8/seed-0/metrics.csv").open() as file:
        assert int(list(csv.DictReader(file))[-1]["step"]) > first_stop
    assert (results / "pytorch/resnet-8/seed-0/metrics.csv").exists()
    assert "of 100,000" in (results / "table.md").read_text()


def test_results_are_drawn_without_a_config(directory, tmp_path):
    def draw(*flags):
        return run_command("experiments.reproduction", "--plot_only", *flags, cwd=tmp_path)

    done = draw()
    assert (done.code, "results/DATASET/NAME has no results" in done.stderr) == (1, True)
    results = tmp_path / "results" / "digits" / "digits"
    shutil.copytree(directory / "results", results)
    table = (results / "table.md").read_text()
    for flags in ((), (f"--results={results}",)):
        for file in (*results.glob("table.*"), *results.glob("figure*.png")):
            file.unlink()
        done = draw(*flags)
        assert (done.code, done.stderr) == (0, "")
        assert (results / "table.md").read_text() == table
        assert len(list(results.glob("figure*.png"))) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["results"]  # no workdir was made
    damaged = results.parent / "a-damaged" / "plain-8" / "seed-0"
    damaged.mkdir(parents=True)
    (damaged / "metrics.csv").write_text("step,")
    shutil.copy(next(results.glob("*/seed-0/config.json")), damaged)
    (results / "table.md").unlink()
    done = draw()
    assert (done.code, done.stderr.count("\n")) == (1, 1)
    assert "no run with metrics in results/digits/a-damaged" in done.stderr
    assert (results / "table.md").read_text() == table  # other directories are drawn


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--models=", "--deep_models="), "--models and --deep_models are empty"),
        (("--models=resnet-9",), "depth must be 6n+2"),
        (
            ("--models=preact-20",),
            "accept the plain and residual models of section 4.2, got preact-20",
        ),
        (("--seeds=0",), "seeds"),
    ],
)
def test_invalid_input(reproduce, flags, part):
    done = reproduce(*flags)
    assert done.returncode == 2
    assert part in done.stderr
    assert "Traceback" not in done.stderr
