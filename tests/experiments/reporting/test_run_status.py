import json
from pathlib import Path

import pytest

from flaxres.errors import WorkdirError
from flaxres.experiments.reporting.run_status import read_status
from tests.experiments.results.test_runs import write_run

HEAD = "# 2026-01-02T03:04:05+00:00 host: python -m flaxres.main --config=a.py:net\n"


def progress(status):
    return [(run.name, run.state, run.step, run.percent) for run in status.runs]


def write_log(directory, *lines):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "output.log").write_text(HEAD + "".join(f"{line}\n" for line in lines))


def test_states_of_runs_in_a_sweep(tmp_path):
    write_run(tmp_path, "resnet-20")
    write_run(tmp_path, "plain-20", 0, errors=(50.0, 40.0))
    write_run(tmp_path, "plain-20", 1, errors=(50.0,))
    write_log(tmp_path / "plain-20" / "seed-1", "error: no room")
    write_run(tmp_path, "plain-32", errors=())  # a config, but no metrics
    write_log(tmp_path / "plain-44" / "seed-0", "error: no data set")  # no config either
    write_log(tmp_path / "resnet-20" / "seed-0", "error: of a start after the last step")
    plan = {
        f"{model}/seed-0": {"seed": 0, "num_steps": 30}
        for model in ("plain-44", "resnet-20", "resnet-56")
    }
    (tmp_path / "sweep.json").write_text(json.dumps(plan))
    status = read_status(tmp_path)
    assert progress(status) == [
        ("plain-20/seed-0", "unfinished", 20, 66),
        ("plain-20/seed-1", "failed", 10, 33),
        ("resnet-20/seed-0", "finished", 30, 100),
        ("plain-44/seed-0", "failed", 0, 0),
        ("resnet-56/seed-0", "not begun", 0, 0),
        ("plain-32/seed-0", "unfinished", 0, 0),
    ]
    assert [run.failure for run in status.runs if run.failure] == ["no room", "no data set"]
    assert status.runs[2].commands == ["python -m flaxres.main --config=a.py:net"]
    assert [run.name for run in status.incomplete] == [r.name for r in status.runs if r.step < 30]
    assert (status.count("failed"), status.count("finished")) == (2, 1)
    assert status.percent == 100 * (20 + 10 + 30) // (6 * 30)


def test_shared_and_differing_fields(tmp_path):
    write_run(tmp_path, "plain-20")
    write_run(tmp_path, "resnet-20", seed=3)
    # An older plan lacks newer fields; the runs then have their defaults.
    (tmp_path / "sweep.json").write_text(json.dumps({"plain-20/seed-9": {"seed": 9}}))
    status = read_status(tmp_path)
    assert {"seed", "model.name", "model.shortcut", "num_steps"} < set(status.differing_fields)
    assert status.shared_fields["model.widths"] == [16, 32, 64]
    assert status.shared_fields["momentum"] == 0.9
    for run in status.runs:
        assert status.shared_fields.keys() | set(status.differing_fields) == run.config.keys()
        assert all(run.config[field] == value for field, value in status.shared_fields.items())
    assert len(status.settings) == 2
    assert status.settings[0].startswith("digits, 30 steps of 128 images")


def test_plan_without_runs(tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps({"plain-20/seed-0": {"num_steps": 7}}))
    status = read_status(tmp_path)
    assert progress(status) == [("plain-20/seed-0", "not begun", 0, 0)]
    assert (status.results, status.runs_by_variant, status.differing_fields) == ([], {}, [])


@pytest.mark.parametrize(("name", "expected"), [("mine", "mine"), ("net/seed-0", "net/seed-0")])
def test_workdir_of_one_run(tmp_path, name, expected, monkeypatch):
    write_run(tmp_path, "plain-20", errors=(50.0,))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "plain-20" / "seed-0").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path / name)
    for status in (read_status(tmp_path / name), read_status(Path("."))):
        assert progress(status) == [(expected, "unfinished", 10, 33)]
        assert status.name == expected.split("/")[-1]
        assert [row["net"] for row in status.results] == [expected.split("/")[0]]


def test_seeds_trained_in_one_program(tmp_path):
    for seed in (2, 10):
        write_run(tmp_path, "plain-20", seed)
    workdir = tmp_path / "plain-20"
    config = json.loads((workdir / "seed-2" / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps(config | {"num_replicas": 2}))
    write_log(workdir)
    expected = [("plain-20/seed-2", "finished", 30, 100), ("plain-20/seed-10", "finished", 30, 100)]
    for status in (
        read_status(workdir),
        read_status(tmp_path),
    ):  # the run, and the sweep that it is in
        assert progress(status) == expected
        assert [len(run.starts) for run in status.runs] == [1, 1]
        assert status.results[0]["seeds"] == 2


def test_errors_of_pytorch_runs_are_in_the_results(tmp_path):
    write_run(tmp_path, "plain-20")
    write_run(tmp_path / "pytorch", "plain-20", errors=(9.0, 9.0, 5.0))
    write_run(tmp_path / "pytorch", "plain-32", errors=())
    status = read_status(tmp_path)
    assert [run.name for run in status.runs] == ["plain-20/seed-0"]
    assert status.results[0]["peer_test_error"] == 6.0


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("[1]", r"sweep\.json must be a JSON object, got \[1\]"),
        ('{"a/seed-0": 3}', r"sweep\.json: 'a/seed-0' must be a JSON object, got 3"),
        ("{", r"sweep\.json is not valid JSON \(line 1"),
    ],
)
def test_unreadable_plans(tmp_path, plan, message):
    (tmp_path / "sweep.json").write_text(plan)
    with pytest.raises(WorkdirError, match=message):
        read_status(tmp_path)


def test_workdir_without_runs(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match=r"must be a directory, but .*file is a file"):
        read_status(tmp_path / "file")
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(WorkdirError, match=r"holds no run: there is no config\.json in it"):
            read_status(path)


def test_a_run_that_diverged_is_not_called_failed(tmp_path):
    write_run(tmp_path, "plain-20", errors=(50.0,))
    write_log(
        tmp_path / "plain-20" / "seed-0", "error: training diverged: train_loss is nan at step 20."
    )
    (run,) = read_status(tmp_path).runs
    assert (run.state, run.step) == ("diverged", 10)
    assert run.failure == "training diverged: train_loss is nan at step 20."
