import json

import numpy as np
import pytest

from flaxres.configs import digits
from flaxres.errors import WorkdirError
from flaxres.experiments.analyses.responses import write_responses
from flaxres.experiments.results.runs import export_run, find_runs, mean_and_std
from flaxres.run.workdir import open_workdir


def write_run(
    workdir, model, seed=0, errors=(50.0, 25.0, 12.5), dataset="digits", num_steps=30, classes=()
):
    """Writes the files of a run: a record every 10 steps, with test errors in every second one."""
    config = digits.get_config(model)
    config.seed = seed
    config.num_steps = num_steps
    config.dataset.name, config.dataset.classes = dataset, classes
    config.boundaries = (15, 20)
    directory = workdir / model / f"seed-{seed}"
    with open_workdir(directory, config, {"params": 1000 + config.model.depth}):
        pass
    lines = []
    for i, error in enumerate(errors, start=1):
        record = {"step": 10 * i, "train_loss": error / 100, "train_error": error}
        record["images_per_second"] = 640.0
        if i % 2 or i == len(errors):
            record["test_error"] = error + 1
        lines.append(json.dumps(record) + "\n")
    (directory / "metrics.jsonl").write_text("".join(lines))


def test_runs_are_grouped_by_variant_in_order(tmp_path):
    for model in ("resnet-20", "resnet-110", "plain-56", "plain-20", "resnet-20-B"):
        write_run(tmp_path, model)
    write_run(tmp_path, "plain-20", seed=1)
    runs = find_runs(tmp_path)
    assert list(runs) == ["plain-20", "plain-56", "resnet-20", "resnet-20-B", "resnet-110"]
    assert [run.config["seed"] for run in runs["plain-20"]] == [0, 1]
    assert runs["plain-56"][0].info["params"] == 1056
    assert runs["plain-56"][0].finished


def test_runs_without_metrics_are_skipped(tmp_path):
    write_run(tmp_path, "plain-20", errors=(50.0,))
    write_run(tmp_path, "plain-56", errors=())
    runs = find_runs(tmp_path)
    assert list(runs) == ["plain-20"]
    assert not runs["plain-20"][0].finished


def test_a_workdir_without_runs(tmp_path):
    with pytest.raises(WorkdirError, match="no run with metrics"):
        find_runs(tmp_path)


def test_training_time_and_speed(tmp_path):
    write_run(tmp_path, "plain-20")
    (run,) = find_runs(tmp_path)["plain-20"]
    assert run.train_seconds() == pytest.approx(30 * 128 / 640)
    assert run.images_per_second() == pytest.approx(640)
    assert (run.last("test_error"), run.last("validation_error")) == (13.5, None)


def test_unreadable_config(tmp_path):
    write_run(tmp_path, "plain-20")
    (tmp_path / "plain-20/seed-0/config.json").write_text("{")
    with pytest.raises(WorkdirError, match=r"plain-20/seed-0 is left out: .*config\.json is not"):
        find_runs(tmp_path)


def test_mean_and_std_use_the_seeds_that_recorded_a_step(tmp_path):
    write_run(tmp_path, "plain-20", seed=0, errors=(50.0, 40.0, 30.0))
    write_run(tmp_path, "plain-20", seed=1, errors=(60.0, 20.0))
    runs = find_runs(tmp_path)["plain-20"]
    steps, mean, std = mean_and_std(runs, "train_error")
    np.testing.assert_array_equal(steps, [10, 20, 30])
    np.testing.assert_allclose(mean, [55, 30, 30])
    np.testing.assert_allclose(std, [np.sqrt(50), np.sqrt(200), 0])
    steps, mean, std = mean_and_std(runs[:1], "test_error")
    np.testing.assert_array_equal(steps, [10, 30])
    np.testing.assert_allclose(std, 0)


def test_exported_results_equal_the_run(tmp_path):
    write_run(tmp_path / "runs", "plain-20", errors=(50.0, 1 / 3, 0.0))
    (run,) = find_runs(tmp_path / "runs")["plain-20"]
    run.config["dataset.data_dir"] = "/path/on/one/machine"
    results = tmp_path / "results"
    export_run(run, results / "plain-20" / "seed-0")
    write_responses({"norm": 0.5, "stage1_block1/norm1": 1 / 3}, results / "plain-20" / "seed-0")
    assert (results / "plain-20/seed-0/metrics.csv").read_text().splitlines()[:3] == [
        "step,train_loss,train_error,images_per_second,test_error",
        "10,0.5,50,640,51",
        "20,0.00333333,0.333333,640,",
    ]
    (exported,) = find_runs(results)["plain-20"]
    assert exported.finished
    assert exported.config == {**run.config, "dataset.data_dir": None}
    assert exported.info == run.info
    assert list(exported.metrics.values) == list(run.metrics.values)
    for metric in ("train_error", "test_error"):
        np.testing.assert_allclose(exported.curve(metric), run.curve(metric), rtol=1e-5)
    assert list(exported.responses) == ["norm", "stage1_block1/norm1"]
    assert exported.responses["norm"] == 0.5
    assert "path/on/one/machine" not in "".join(
        path.read_text() for path in results.glob("*/*/*.json")
    )


@pytest.mark.parametrize("text", ["step,train_error\n10,x\n", "train_error\n5\n", "step\n1\n,\n"])
def test_unreadable_metrics_csv(tmp_path, text):
    write_run(tmp_path, "plain-20")
    (tmp_path / "plain-20/seed-0/metrics.csv").write_text(text)
    with pytest.raises(WorkdirError, match=r"metrics\.csv, line [123]: .*; restore the file"):
        find_runs(tmp_path)
