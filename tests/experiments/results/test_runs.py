import json

import numpy as np
import pytest

from configs import digits
from experiments.analyses.responses import write_responses
from experiments.results.runs import are_nets, check_comparable, export, find_runs, mean_and_std
from flaxres.errors import WorkdirError
from flaxres.run.workdir import open_workdir


def write_run(
    workdir, net, seed=0, errors=(50.0, 25.0, 12.5), dataset="digits", num_steps=30, classes=()
):
    """A run as `flaxres.training.train` leaves it: a record every 10 steps, tests at every second."""
    config = digits.get_config(net)
    config.seed = seed
    config.num_steps = num_steps
    config.dataset.name, config.dataset.classes = dataset, classes
    config.boundaries = (15, 20)
    run = workdir / net / f"seed-{seed}"
    with open_workdir(run, config, {"params": 1000 + config.model.depth}):
        pass
    lines = []
    for i, error in enumerate(errors, start=1):
        record = {"step": 10 * i, "train_loss": error / 100, "train_error": error}
        record["images_per_second"] = 640.0
        if i % 2 or i == len(errors):
            record["test_error"] = error + 1
        lines.append(json.dumps(record) + "\n")
    (run / "metrics.jsonl").write_text("".join(lines))


def test_runs_by_net_in_order(tmp_path):
    for net in ("resnet-20", "resnet-110", "plain-56", "plain-20", "resnet-20-B"):
        write_run(tmp_path, net)
    write_run(tmp_path, "plain-20", seed=1)
    runs = find_runs(tmp_path)
    assert list(runs) == ["plain-20", "plain-56", "resnet-20", "resnet-20-B", "resnet-110"]
    assert [run.config["seed"] for run in runs["plain-20"]] == [0, 1]
    assert runs["plain-56"][0].info["params"] == 1056
    assert runs["plain-56"][0].finished


def test_unfinished_and_empty_runs(tmp_path):
    write_run(tmp_path, "plain-20", errors=(50.0,))
    write_run(tmp_path, "plain-56", errors=())
    runs = find_runs(tmp_path)
    assert list(runs) == ["plain-20"]
    assert not runs["plain-20"][0].finished


def test_nothing_there(tmp_path):
    with pytest.raises(WorkdirError, match="no run with metrics"):
        find_runs(tmp_path)


def test_runs_of_other_experiments(tmp_path):
    write_run(tmp_path, "plain-20")
    write_run(tmp_path, "resnet-20", dataset="cifar10", num_steps=60)
    runs = find_runs(tmp_path)
    assert not are_nets(runs)
    configs = [run.config for group in runs.values() for run in group]
    with pytest.raises(WorkdirError, match=r"not of one experiment: dataset\.name is 'digits' and"):
        check_comparable(configs, tmp_path)


def test_nets_and_variants(tmp_path):
    write_run(tmp_path, "plain-20")
    write_run(tmp_path, "resnet-20-B", seed=1)
    assert are_nets(find_runs(tmp_path))
    (tmp_path / "resnet-20-B").rename(tmp_path / "resnet-20-slow")
    runs = find_runs(tmp_path)
    assert list(runs) == ["plain-20", "resnet-20-slow"]
    assert not are_nets(runs)
    (tmp_path / "resnet-20-slow").rename(tmp_path / "resnet-20-B")
    write_run(tmp_path, "densenet-40-12")
    assert not are_nets(find_runs(tmp_path))


def test_time_and_speed_of_a_run(tmp_path):
    write_run(tmp_path, "plain-20")
    (run,) = find_runs(tmp_path)["plain-20"]
    assert run.train_seconds() == pytest.approx(30 * 128 / 640)
    assert run.images_per_second() == pytest.approx(640)
    assert (run.last("test_error"), run.last("validation_error")) == (13.5, None)


def test_a_run_that_cannot_be_read(tmp_path):
    write_run(tmp_path, "plain-20")
    (tmp_path / "plain-20/seed-0/config.json").write_text("{")
    with pytest.raises(WorkdirError, match=r"config\.json cannot be read"):
        find_runs(tmp_path)


def test_mean_and_std_over_the_seeds_that_have_a_step(tmp_path):
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


def test_results_hold_what_the_workdir_holds(tmp_path):
    write_run(tmp_path / "runs", "plain-20", errors=(50.0, 1 / 3, 0.0))
    (run,) = find_runs(tmp_path / "runs")["plain-20"]
    run.config["dataset.data_dir"] = "/somewhere/of/this/machine"
    kept = tmp_path / "results"
    export(run, kept / "plain-20" / "seed-0")
    write_responses({"norm": 0.5, "stage1_block1/norm1": 1 / 3}, kept / "plain-20" / "seed-0")
    assert (kept / "plain-20/seed-0/metrics.csv").read_text().splitlines()[:3] == [
        "step,train_loss,train_error,images_per_second,test_error",
        "10,0.5,50,640,51",
        "20,0.00333333,0.333333,640,",
    ]
    (again,) = find_runs(kept)["plain-20"]
    assert again.finished
    assert again.config == {**run.config, "dataset.data_dir": None}
    assert again.info == run.info
    assert [list(record) for record in again.records] == [list(record) for record in run.records]
    for metric in ("train_error", "test_error"):
        np.testing.assert_allclose(again.curve(metric), run.curve(metric), rtol=1e-5)
    assert list(again.responses) == ["norm", "stage1_block1/norm1"]
    assert again.responses["norm"] == 0.5
    assert "somewhere" not in "".join(path.read_text() for path in kept.glob("*/*/*.json"))


@pytest.mark.parametrize("text", ["step,train_error\n10,x\n", "train_error\n5\n", "step\n1\n,\n"])
def test_results_that_cannot_be_read(tmp_path, text):
    write_run(tmp_path, "plain-20")
    (tmp_path / "plain-20/seed-0/metrics.csv").write_text(text)
    with pytest.raises(WorkdirError, match=r"metrics\.csv, line [23], cannot be read"):
        find_runs(tmp_path)
