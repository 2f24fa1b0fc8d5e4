"""Tables of runs as pandas DataFrames, and sweeps that are run from Python."""

import shutil
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict, FrozenConfigDict

import flaxres
from flaxres.api.sweeps import MissingPackageError
from flaxres.experiments.sweeps import execution
from flaxres.experiments.sweeps.plan import grid
from flaxres.run.records import read_metrics


@pytest.fixture(scope="module")
def sweep(digits_run, tmp_path_factory):
    """Two runs of a sweep; the second one is another seed in name only."""
    workdir = tmp_path_factory.mktemp("sweep")
    for seed in (0, 1):
        directory = workdir / "small" / f"seed-{seed}"
        shutil.copytree(digits_run, directory)
        config = directory / "config.json"
        config.write_text(config.read_text().replace('"seed": 0', f'"seed": {seed}'))
    return workdir


def test_results_have_a_row_for_each_run(sweep, digits_run):
    table = flaxres.load_results(sweep)
    assert table["name"].tolist() == ["small/seed-0", "small/seed-1"]
    assert table["state"].tolist() == ["finished", "finished"]
    last = read_metrics(digits_run)[-1]
    np.testing.assert_allclose(table["final_test_error"], last["test_error"])
    configs = [column for column in table if column.startswith("config.")]
    assert configs == ["config.seed"]
    assert "config.batch_size" in flaxres.load_results(sweep, all_fields=True)


def test_results_of_one_run(digits_run, sweep):
    assert flaxres.load_results(digits_run)["variant"].tolist() == [digits_run.name]
    assert flaxres.load_results(sweep / "small" / "seed-0")["name"].tolist() == ["small/seed-0"]


def test_metrics_have_a_row_for_each_step(sweep, digits_run):
    table = flaxres.load_metrics(sweep)
    records = read_metrics(digits_run)
    assert table["step"].tolist() == 2 * [record["step"] for record in records]
    errors = [record.get("test_error", np.nan) for record in records]
    np.testing.assert_array_equal(table[table.seed == 1]["test_error"], errors)
    one = flaxres.load_metrics(digits_run)
    np.testing.assert_array_equal(one["test_error"], errors)


def test_missing_pandas_is_one_line(sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackageError, match="-m pip install pandas"):
        flaxres.load_results(sweep)


@pytest.mark.slow
def test_a_sweep_trains_its_runs(tmp_path):
    variants = {"plain": ("plain-8", {}), "residual": ("resnet-8", {})}
    overrides = {"num_steps": 4, "boundaries": (2,), "log_every": 2, "model": {"widths": (4, 4, 8)}}
    table = flaxres.run_sweep(
        grid("digits", variants, [0]), tmp_path, only=["res*"], overrides=overrides
    )
    assert table["name"].tolist() == ["residual/seed-0"]
    assert table["step"].tolist() == [4]
    page = flaxres.write_report(tmp_path)
    assert "residual" in page.read_text()


@pytest.mark.parametrize("kind", [dict, ConfigDict, FrozenConfigDict])
def test_overrides_are_dicts_of_every_kind(kind, tmp_path, monkeypatch):
    queues = []
    monkeypatch.setattr(execution, "run_queue", lambda runs, *_: queues.append(list(runs)))
    monkeypatch.setattr(flaxres.api.sweeps, "load_results", lambda _: None)
    sweep = grid("digits", {"small": ("resnet-8", kind({"learning_rate": 0.5}))})
    sweep[0]["overrides"] = kind(sweep[0]["overrides"])
    overrides = kind({"num_steps": 3, "boundaries": (2,), "augment": {"pad": 1}})
    flaxres.run_sweep(sweep, tmp_path, overrides=overrides, workers=1)
    config = queues[0][0].plan.config
    assert (config.num_steps, config.augment.pad, config.learning_rate) == (3, 1, 0.5)


def test_a_sweep_uses_no_flags(tmp_path, monkeypatch):
    """absl's flags are never parsed in a user's program."""
    queues = []
    monkeypatch.setattr(execution, "run_queue", lambda runs, *_: queues.append(list(runs)))
    monkeypatch.setattr(flaxres.api.sweeps, "load_results", lambda _: None)
    flaxres.run_sweep(grid("digits", {"small": ("resnet-8", {})}, [0, 1]), tmp_path, workers=1)
    (runs,) = queues
    assert sorted(run.plan.name for run in runs) == ["small/seed-0", "small/seed-1"]
