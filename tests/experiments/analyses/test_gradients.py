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


def test_values_that_are_zero_or_not_finite_can_be_drawn(tmp_path):
    values = {"conv": None, "dense": 0.0}
    records = [{"step": step, **dict.fromkeys(gradients.QUANTITIES, values)} for step in (0, 9)]
    files = gradients._draw_layers({"a": records}, tmp_path / "a", "digits")
    files += gradients._draw_training({"a": records}, tmp_path / "b", "digits")
    assert [file.name for file in files] == ["a.png", "a.svg", "b.png", "b.svg"]
    for file in files[1::2]:
        assert "drawn at the edge" in file.read_text()


def draw_training(monkeypatch, tmp_path, counts):
    """Draws runs with these numbers of layers over training; returns the panels and the legend."""
    figures = []
    monkeypatch.setattr(plot_style, "save", lambda figure, path, note: figures.append(figure))
    runs = {}
    for number, count in enumerate(counts):
        values = {f"layer{i}": float(i + 1) for i in range(count)}
        records = [{"step": step, **dict.fromkeys(gradients.QUANTITIES, values)} for step in (0, 9)]
        runs[f"run-{number}"] = records
    gradients._draw_training(runs, tmp_path / "figure", "digits")
    return figures[0].axes, [text.get_text() for text in figures[0].legends[0].get_texts()]


def test_layers_over_training_of_models_of_one_depth(monkeypatch, tmp_path):
    panels, legend = draw_training(monkeypatch, tmp_path, [9] * 5)
    assert legend == [f"layer {number} of 9" for number in (1, 3, 5, 7, 9)]
    assert [line.get_ydata()[0] for line in panels[0].lines] == [1, 3, 5, 7, 9]
    assert [axes.get_xlabel() for axes in panels] == ["", "", "steps", "steps", "steps"]
    has_ticks = [axes.xaxis.get_tick_params()["labelbottom"] for axes in panels]
    assert has_ticks == [False, False, True, True, True]
    panels, _ = draw_training(monkeypatch, tmp_path, [9] * 4)
    assert [axes.get_xlabel() for axes in panels] == ["", "", "steps", "steps"]


def test_legend_over_training_holds_for_models_of_different_depth(monkeypatch, tmp_path):
    panels, legend = draw_training(monkeypatch, tmp_path, [9, 17])
    assert (legend[0], legend[2], legend[4]) == (
        "first layer",
        "layer at 1/2 of the depth",
        "last layer",
    )
    assert [[line.get_ydata()[0] for line in axes.lines] for axes in panels] == [
        [1, 3, 5, 7, 9],
        [1, 5, 9, 13, 17],
    ]


def test_more_runs_than_there_are_styles(tmp_path):
    with pytest.raises(ConfigError, match="can show at most 21 runs, got 22"):
        gradients.analyze([RunSource(tmp_path)] * 22, tmp_path)
