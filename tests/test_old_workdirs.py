"""Workdirs, sweeps and results of version 0.1.0, commit 516c4b1, still work.

`fixtures/sweep_of_0.1.0.tar.gz` is a sweep that this commit trained on a CPU: plain-8 is finished
after 20 steps, resnet-8 has its checkpoint of step 10. `expected_resnet-8.jsonl` is what the same
commit logged over all 20 steps, and `sweep.py` the sweep file, with former names of fields.
"""

import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from flaxres.experiments.results.runs import find_runs
from flaxres.run.records import read_metrics
from tests.conftest import ROOT

FIXTURE = ROOT / "tests" / "fixtures" / "sweep_of_0.1.0.tar.gz"
RESULTS = ROOT / "results" / "cifar10_jpeg" / "cifar10_short"


@pytest.fixture
def sweep(tmp_path):
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path / "sweep", filter="data")
    return tmp_path / "sweep"


def assert_finished_as_before(sweep):
    """The resumed run logged what the old commit logged, except for rounding on other machines."""
    expected = [
        json.loads(line) for line in (sweep / "expected_resnet-8.jsonl").read_text().splitlines()
    ]
    records = read_metrics(sweep / "resnet-8" / "seed-0")
    assert [record["step"] for record in records] == [4, 8, 10, 12, 16, 20]
    for record, old in zip(records, expected, strict=True):
        assert record.keys() == old.keys()
        for name in old.keys() & {"train_loss", "test_loss", "learning_rate"}:
            assert record[name] == pytest.approx(old[name], rel=1e-3)


def test_a_run_resumes_with_its_old_command(sweep, python):
    _, _, command = (sweep / "resnet-8" / "seed-0" / "output.log").read_text().partition("flaxres")
    flags = command.splitlines()[0].replace("'", "").replace("(4, 8, 8)", "(4,8,8)")
    flags = flags.replace("(10, 15)", "(10,15)").split()[1:-1]
    assert "--config.augment.colour=0.0" in flags
    workdir = sweep / "resnet-8" / "seed-0"
    done = python("-m", "flaxres.main", *flags, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "'augment.colour' is now called 'augment.color'" in done.stderr
    assert_finished_as_before(sweep)


def test_a_sweep_resumes_with_its_old_file(sweep, python):
    done = python(
        *("-m", "experiments.sweep", f"--sweep={sweep / 'sweep.py'}", f"--workdir={sweep}"),
        "--workers=1",
    )
    assert done.returncode == 0, done.stderr
    assert_finished_as_before(sweep)
    assert (sweep / "figure6.png").exists()


def test_a_finished_run_is_evaluated_used_and_exported(sweep, python):
    workdir = sweep / "plain-8" / "seed-0"
    (final,) = [record for record in read_metrics(workdir) if record["step"] == 20]
    done = python("-m", "flaxres.main", "--mode=eval", f"--workdir={workdir}", "--splits=test")
    assert done.returncode == 0, done.stderr
    values = dict(line.split(": ") for line in done.stdout.splitlines() if ": " in line)
    assert float(values["test_error"]) == pytest.approx(final["test_error"], abs=0.6)
    assert float(values["test_loss"]) == pytest.approx(final["test_loss"], rel=1e-3)

    Image.fromarray(np.full((8, 8), 100, np.uint8)).save(sweep / "digit.png")
    flags = ("--mode=predict", f"--workdir={workdir}", f"--images={sweep / 'digit.png'}", "--json")
    done = python("-m", "flaxres.main", *flags)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert len(json.loads(line)["predictions"]) == 5

    output = sweep / "model.stablehlo"
    done = python(
        "-m", "flaxres.main", "--mode=export", f"--workdir={workdir}", f"--output={output}"
    )
    assert done.returncode == 0, done.stderr
    assert output.stat().st_size > 1_000


def test_reports_and_analyses_of_an_old_sweep(sweep, python):
    done = python("-m", "experiments.report", f"--workdir={sweep}")
    assert done.returncode == 0, done.stderr
    assert "resnet-8" in (sweep / "report.html").read_text()
    done = python("-m", "experiments.analyze", "responses", f"--workdir={sweep}")
    assert done.returncode == 0, done.stderr
    assert (sweep / "analyses" / "responses.csv").exists()


def test_results_of_the_old_commit_are_read_and_drawn(tmp_path, python):
    shutil.copytree(RESULTS, tmp_path / "results")
    runs = find_runs(tmp_path / "results")
    assert {name: len(group) for name, group in runs.items()} == {
        **{"plain-20": 4, "plain-56": 2, "resnet-20": 4, "resnet-56": 2},
    }
    flags = (
        "--config=configs/cifar10_short.py",
        "--plot_only",
        f"--results={tmp_path / 'results'}",
    )
    done = python("-m", "experiments.reproduction", *flags, f"--workdir={tmp_path / 'workdir'}")
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "results" / "table.md").read_text()
    assert "26.72 ± 2.43 (4 seeds)" in table
    assert "29.80 ± 1.00 (4 seeds)" in table
