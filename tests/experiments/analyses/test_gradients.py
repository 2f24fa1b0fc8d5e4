"""Gradients of layers, read from a run's log or computed from its checkpoints."""

import csv
import shutil

import pytest

from flaxres.errors import CheckpointError, ConfigError
from flaxres.experiments.analyses import gradients
from flaxres.experiments.analyses.model_sources import RunSource
from flaxres.experiments.results import plot_style
from flaxres.run.workdir import LAYERS_FILE
from flaxres.training.train import train_and_evaluate
from tests.conftest import small_config


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The workdir of a plain and a residual model of 8 layers, with logs of their layers."""
    workdir = tmp_path_factory.mktemp("sweep")
    for name, shortcut in (("plain", "none"), ("resnet", "A")):
        config = small_config()
        config.model.name, config.model.shortcut = name, shortcut
        config.num_steps, config.boundaries, config.log_layers_every = 4, (), 2
        train_and_evaluate(config, workdir / f"{name}-8" / "seed-0")
    return workdir


def run_sources(workdir):
    return [RunSource(workdir / name / "seed-0") for name in ("plain-8", "resnet-8")]


def test_csv_contains_the_logged_values(sweep, tmp_path):
    files = gradients.analyze(run_sources(sweep), tmp_path)
    names = ("gradients.csv", "gradients.png", "gradients.svg")
    names += ("gradients_over_training.png", "gradients_over_training.svg")
    assert [file.name for file in files] == list(names)
    rows = list(csv.DictReader(files[0].read_text().splitlines()))
    assert len(rows) == 2 * 3 * 8  # runs, records, layers
    log = gradients.records_of_model(run_sources(sweep)[1]).records
    row = next(r for r in rows if r["run"] == "resnet-8/seed-0" and r["step"] == "4")
    assert (row["number"], row["layer"]) == ("1", "conv")
    assert float(row["backward"]) == pytest.approx(log[-1]["backward"]["conv"], rel=1e-5)


def test_a_run_without_a_log_is_measured(sweep, tmp_path):
    logged = run_sources(sweep)[1]
    expected = gradients.records_of_model(logged).records
    copy = shutil.copytree(logged.directory, tmp_path / "run")
    (copy / LAYERS_FILE).unlink()
    records = gradients.records_of_model(RunSource(copy)).records
    assert [record["step"] for record in records] == [0, 4]
    for record, expected_record in zip(records, (expected[0], expected[-1]), strict=True):
        for quantity in gradients.QUANTITIES:
            assert record[quantity] == pytest.approx(expected_record[quantity], rel=1e-4)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        gradients.records_of_model(RunSource(copy))


def test_the_figure_over_training_names_the_models_that_it_leaves_out(sweep, tmp_path, monkeypatch):
    """A log of two records is drawn like any other; a run without a log is named."""
    notes = {}
    monkeypatch.setattr(
        plot_style, "save", lambda figure, path, note: notes.setdefault(path.name, note) and []
    )
    workdir = shutil.copytree(sweep, tmp_path / "sweep")
    two, none = (source.directory / LAYERS_FILE for source in run_sources(workdir))
    two.write_text("".join(two.read_text().splitlines(keepends=True)[:2]))
    gradients.analyze(run_sources(workdir), tmp_path)
    assert "not shown" not in notes.pop("gradients_over_training")
    none.unlink()
    gradients.analyze(run_sources(workdir), tmp_path)
    message = "; not shown, because they have no layers.jsonl: resnet-8"
    assert notes.pop("gradients_over_training").endswith(message)
    two.unlink()
    gradients.analyze(run_sources(workdir), tmp_path)
    assert "gradients_over_training" not in notes


def test_more_runs_than_there_are_styles(tmp_path):
    with pytest.raises(ConfigError, match="can show at most 21 runs, got 22"):
        gradients.analyze([RunSource(tmp_path)] * 22, tmp_path)
