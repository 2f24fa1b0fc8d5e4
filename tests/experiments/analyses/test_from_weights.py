"""Analyses of weights files, compared with those of the runs that wrote them."""

import csv
import dataclasses

import pytest

from flaxres.errors import ConfigError
from flaxres.experiments.analyses import gradients, responses
from flaxres.experiments.analyses.batch_norm import Options as BatchNormOptions
from flaxres.experiments.analyses.batch_norm import analyze_runs as analyze_batch_norm
from flaxres.experiments.analyses.identity_runs import DeepenedModel, find_pairs, shallow_errors
from flaxres.experiments.analyses.landscape import Options as LandscapeOptions
from flaxres.experiments.analyses.landscape import analyze_runs as analyze_landscape
from flaxres.experiments.analyses.model_sources import RunSource
from flaxres.experiments.analyses.population import Options as PopulationOptions
from flaxres.experiments.analyses.population import analyze_runs as analyze_population
from flaxres.experiments.analyses.source_selection import load_weights
from flaxres.experiments.results import plot_style
from flaxres.inference.pretrained import save_weights
from flaxres.inference.trained_model import load_trained_model
from flaxres.run.records import read_metrics


@pytest.fixture(scope="module")
def weights_file(digits_run, tmp_path_factory):
    """The weights file of the small experiment."""
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    save_weights(load_trained_model(digits_run), path)
    return path


@pytest.fixture
def source(weights_file):
    """The weights file as the model of an analysis."""
    return load_weights([str(weights_file)])[0]


def read_rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_responses_are_written_to_the_output_only(digits_run, source, tmp_path):
    files = responses.analyze([source], tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert [path.name for path in files] == [f"responses.{s}" for s in ("csv", "png", "svg")]
    rows = read_rows(files[0])
    expected = responses.responses_of_run(RunSource(digits_run).load())
    assert [row["layer"] for row in rows] == list(expected)
    assert [float(row["std"]) for row in rows] == pytest.approx(list(expected.values()), rel=1e-5)
    assert {row["run"] for row in rows} == {"resnet-8"}
    assert sorted(source.trained.source.parent.iterdir()) == [source.trained.source]


def test_gradients_begin_with_the_initial_state_of_the_run(digits_run, source, tmp_path):
    files = gradients.analyze([source], tmp_path)
    assert [path.name for path in files] == [f"gradients.{s}" for s in ("csv", "png", "svg")]
    rows = read_rows(files[0])
    assert [row["step"] for row in rows] == ["0"] * 8 + ["20"] * 8
    expected = gradients.records_of_model(RunSource(digits_run)).records
    for record in expected:
        values = [float(r["backward"]) for r in rows if r["step"] == str(record["step"])]
        assert values == pytest.approx(list(record["backward"].values()), rel=1e-4)


def test_gradients_of_a_fine_tuned_model_need_its_run(source):
    source.config.init_from = "start.msgpack"
    with pytest.raises(ConfigError, match=r"was initialized from start.msgpack, which a weights"):
        gradients.records_of_model(source)


def test_models_that_are_not_supported_are_named_by_their_file(source, tmp_path):
    source.config.model.norm = "group"
    analyses = (
        (lambda: responses.analyze([source], tmp_path), "requires a model with batch norm after"),
        (lambda: analyze_batch_norm([source], tmp_path), "requires a model with model.norm='batch"),
        (
            lambda: analyze_population([source], tmp_path, PopulationOptions()),
            "population statistics need model.norm",
        ),
    )
    for analyze, message in analyses:
        with pytest.raises(ConfigError, match=message) as caught:
            analyze()
        assert str(source) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_figures_of_one_model_have_room_for_their_legends(source, tmp_path, monkeypatch):
    figures = {}

    def keep(figure, path, note):
        figures[path.name] = (figure, note)
        return []

    monkeypatch.setattr(plot_style, "save", keep)
    analyze_batch_norm([source], tmp_path, BatchNormOptions(images=10**6))
    analyze_population([source], tmp_path, PopulationOptions(trials=1, images=20, train_images=64))
    for name in ("population", "batch_norm_gap", "batch_norm_parameters"):
        figure = figures[name][0]
        figure.draw_without_rendering()
        (legend,) = figure.legends
        extent = legend.get_window_extent()
        assert extent.x0 >= 0, name
        assert extent.x1 <= figure.bbox.x1, name
    assert figures["batch_norm_gap"][1].startswith("channels of 360 test images")


def test_odd_file_names_are_in_legends_as_they_are(source, tmp_path, monkeypatch):
    figures, save = [], plot_style.save

    def keep(figure, path, note):
        figures.append(figure)
        return save(figure, path, note)

    monkeypatch.setattr(plot_style, "save", keep)
    names = ["_mine", "a$b$c"]
    sources = [dataclasses.replace(source, label=name) for name in names]
    responses.analyze(sources, tmp_path)
    gradients.analyze(sources, tmp_path)
    legends = figures[0].axes[0].get_legend(), figures[1].legends[0]
    for legend in legends:
        shown = [text._preprocess_math(text.get_text()) for text in legend.get_texts()]
        assert shown == [(" _mine", False), ("a$b$c", False)]  # False: no formula


def test_a_line_between_two_files(weights_file, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights_file.read_bytes())
    sources = load_weights([str(weights_file), str(copy)])
    options = LandscapeOptions(kind="between", points=3, images=64, between=("mine", "copy"))
    rows = read_rows(analyze_landscape(sources, tmp_path, options)[0])
    assert len({row["loss"] for row in rows}) == 1  # from a model to itself
    assert {(row["run"], row["other"]) for row in rows} == {("mine", "copy")}


def test_identity_layers_for_a_weights_file(digits_run, source, tmp_path):
    (pair,) = find_pairs([source], [], ["14"])
    assert (pair.shallow, pair.deeper, pair.config.model.depth) == ("resnet-8", "resnet-14", 14)
    named = dataclasses.replace(source, label="mine")
    assert find_pairs([named], ["mine"], ["resnet-14"])[0].deeper == "resnet-14-mine"
    evaluated = {"shallow": {"train_error": 1.0, "test_error": 2.0}}
    trained = source.load()
    model = DeepenedModel(pair, trained, tmp_path / "w.msgpack", evaluated, 0.0, 1.0)
    logged = read_metrics(digits_run)[-1]
    assert shallow_errors(model) == {
        name: pytest.approx(logged[name]) for name in ("train_error", "test_error")
    }


@pytest.mark.slow
def test_identity_command(python, weights_file, tmp_path):
    command = ("-m", "experiments.analyze", "identity", f"--weights={weights_file}", "--deeper=14")
    output = tmp_path / "output"
    flags = ("--learning_rate_factors=1,0.1", "--num_steps=4", "--norandom_weights")
    done = python(*command, f"--output={output}", *flags)
    assert done.returncode == 0, done.stderr
    rows = {row["run"]: row for row in read_rows(output / "identity.csv")}
    names = ("resnet-8", "resnet-14-from-resnet-8/seed-0", "resnet-14-from-resnet-8-lr0.01/seed-0")
    assert tuple(rows) == names
    assert [row["step"] for row in rows.values()] == ["20", "4", "4"]
    for name in names[1:]:  # identity blocks do not change the error
        assert rows[name]["initial_test_error"] == rows["resnet-8"]["final_test_error"]


def test_commands_without_a_place_for_their_results(python, weights_file):
    done = python("-m", "experiments.analyze", "responses", f"--weights={weights_file}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --output is missing; give --weights a directory")
    done = python("-m", "experiments.analyze", "responses")
    assert done.stderr.startswith("error: --workdir is missing; set it to the directory of a run")
    assert "--weights" in done.stderr
