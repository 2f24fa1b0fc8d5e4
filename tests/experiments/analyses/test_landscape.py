"""Lines and planes, compared with the losses of the models that they pass through."""

import csv

import numpy as np
import pytest
from absl import flags

from flaxres.config import set_model
from flaxres.errors import ConfigError
from flaxres.evaluation.evaluate import evaluate_run
from flaxres.experiments.analyses import landscape, landscape_figures
from flaxres.experiments.analyses.landscape import analyze_runs
from flaxres.experiments.analyses.landscape_points import Options, Surface, measure
from flaxres.experiments.analyses.model_sources import RunSource
from flaxres.run.workdir import open_workdir
from flaxres.training.train import train_and_evaluate
from tests.conftest import small_config


def make_config(seed=0, **fields):
    config = small_config()
    config.seed = seed
    config.num_steps = config.eval_every = config.checkpoint_every = 10
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two trained runs of one model."""
    workdir = tmp_path_factory.mktemp("sweep")
    directories = [workdir / "resnet-8" / f"seed-{seed}" for seed in range(2)]
    for seed, directory in enumerate(directories):
        train_and_evaluate(make_config(seed), directory)
    return [RunSource(directory) for directory in directories]


@pytest.fixture(scope="module")
def evaluated(runs):
    """(loss, error) of each run on all training images, from an evaluation."""
    records = [evaluate_run(make_config(seed), run.directory) for seed, run in enumerate(runs)]
    return [(record["train_loss"], record["train_error"]) for record in records]


def read_rows(path):
    """Returns the rows of a CSV file, with coordinates and metrics as numbers."""
    rows = []
    for row in csv.DictReader(path.read_text().splitlines()):
        numbers = {key: float(row[key]) for key in ("x", "y", "loss", "error") if key in row}
        rows.append(row | numbers)
    return rows


def approx_metrics(row):
    return pytest.approx((row["loss"], row["error"]), rel=1e-5)


def test_lines_pass_through_the_runs(tmp_path, runs, evaluated):
    files = analyze_runs(runs, tmp_path, Options(points=5, reach=0.8))
    assert [f.name for f in files] == [f"landscape_line.{end}" for end in ("csv", "png", "svg")]
    rows = read_rows(files[0])
    assert [row["x"] for row in rows] == [-0.8, -0.4, 0, 0.4, 0.8] * 2
    assert evaluated[0] == approx_metrics(rows[2])
    assert evaluated[1] == approx_metrics(rows[7])
    assert {row["run"] for row in rows} == {"resnet-8/seed-0", "resnet-8/seed-1"}
    assert max(row["loss"] for row in rows) > 1.01 * evaluated[0][0]


def test_the_x_axis_of_a_plane_is_the_line(tmp_path, runs):
    files = analyze_runs(runs[:1], tmp_path, Options(kind="plane", points=3, images=100))
    assert [f.name for f in files] == [f"landscape_plane.{end}" for end in ("csv", "png", "svg")]
    rows = read_rows(files[0])
    assert [(row["x"], row["y"]) for row in rows] == [
        (x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)
    ]
    line = measure(runs[0].load(), Options(points=3, images=100))
    for row, line_row in zip(rows[3:6], line, strict=True):
        assert (row["loss"], row["error"]) == approx_metrics(line_row)
    # The y axis and the lines of other seeds have other directions.
    assert rows[1]["loss"] != pytest.approx(rows[3]["loss"], rel=1e-3)
    other = measure(runs[0].load(), Options(points=3, images=100, seed=1))
    assert other[0]["loss"] != pytest.approx(line[0]["loss"], rel=1e-3)
    assert other[1]["loss"] == line[1]["loss"]


def test_a_line_between_runs_ends_at_them_and_is_symmetric(tmp_path, runs, evaluated):
    names = ("resnet-8/seed-0", "resnet-8/seed-1")
    options = Options(kind="between", points=5, between=names)
    rows = read_rows(analyze_runs(runs, tmp_path, options)[0])
    assert [row["x"] for row in rows] == [0, 0.25, 0.5, 0.75, 1]
    assert evaluated[0] == approx_metrics(rows[0])
    assert evaluated[1] == approx_metrics(rows[4])
    options = Options(kind="between", points=5, between=names[::-1])
    reversed_rows = read_rows(analyze_runs(runs, tmp_path, options)[0])
    for row, reversed_row in zip(rows, reversed_rows[::-1], strict=True):
        assert (row["loss"], row["error"]) == approx_metrics(reversed_row)
    assert (reversed_rows[0]["run"], reversed_rows[0]["other"]) == names[::-1]
    # Interpolated statistics do not fit the weights in the middle; recomputed ones do.
    options = Options(kind="between", points=3, between=names, statistics="population")
    recomputed = read_rows(analyze_runs(runs, tmp_path, options)[0])
    assert recomputed[1]["loss"] != pytest.approx(rows[2]["loss"], rel=1e-2)
    assert {row["statistics"] for row in recomputed} == {"population"}


def test_panels_of_models_with_and_without_shortcuts():
    names = ("plain-20", "dirac-20", "repvgg-20", "vgg-13", "resnet-20", "vgg-13-skip", "fixup-20")
    groups = [landscape._group(set_model(small_config(), name).model) for name in names]
    assert groups == ["models without shortcuts"] * 4 + ["models with shortcuts"] * 3


def test_losses_that_are_not_finite(tmp_path, runs):
    run = runs[0].load()
    surface = Surface(run, Options(images=50))
    run.variables["params"]["dense"]["kernel"] = run.variables["params"]["dense"]["kernel"] * np.inf
    assert not np.isfinite(surface(run.variables)["loss"])
    files = analyze_runs(runs[:1], tmp_path, Options(points=3, reach=1e30, images=50))
    rows = read_rows(files[0])
    assert [np.isfinite(row["loss"]) for row in rows] == [False, True, False]


def test_drawable_losses():
    losses, text = landscape_figures.drawable_losses(np.array([1.0, np.inf, 0.0, np.nan, 2.0]))
    np.testing.assert_array_equal(losses, [1, 2, 1e-6, 2, 2])
    assert text == "; crosses: 2 of 5 losses are not finite"
    assert landscape_figures.drawable_losses(np.array([1.0, 3.0]))[1] == ""
    losses, text = landscape_figures.drawable_losses(np.array([np.nan, np.inf]))
    np.testing.assert_array_equal(losses, [1e-6, 1e-6])


@pytest.mark.parametrize(
    ("lowest", "highest", "expected"),
    [
        (0.6, 12, [0.7, 1, 1.5, 2, 3, 5, 7, 10]),
        (0.2, 600, [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500]),
        (1e-3, 1e4, [n * 10.0**d for d in range(-3, 4) for n in (1, 3)][1:]),
        (2.3, 2.9, [2.4, 2.5, 2.6, 2.7, 2.8]),
        (2.3, 2.3, []),
        (3e-4, 2e8, [10.0**d for d in range(-3, 9)]),
        (1e-6, 1e30, [1e-3, 1, 1e3, 1e6, 1e9, 1e12, 1e15, 1e18, 1e21, 1e24, 1e27]),
    ],
)
def test_contour_levels_are_few_round_numbers(lowest, highest, expected):
    np.testing.assert_allclose(landscape_figures.contour_levels(lowest, highest), expected)


def test_planes_without_contours_can_be_drawn(tmp_path):
    points = [(x, y) for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)]
    for corner_loss in (2.3, np.nan, 1e12, np.inf):
        rows = [
            {"run": run, "x": x, "y": y, "loss": loss if x and y else 2.3, "error": 90.0}
            for run, loss in (("flat/seed-0", 2.3), ("steep/seed-0", corner_loss))
            for x, y in points
        ]
        files = landscape_figures.draw_plane(rows, tmp_path / "plane", "losses")
        assert all(file.stat().st_size > 1000 for file in files)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 4}, "--points must be odd and at least 3"),
        ({"points": 1, "kind": "between"}, "--points must be at least 2"),
        ({"kind": "between"}, "needs two runs of one model.*got none"),
        (
            {"kind": "between", "between": ("resnet-8/seed-0",)},
            "needs two runs.*got resnet-8/seed-0",
        ),
        (
            {"kind": "between", "between": ("resnet-8/seed-0", "vgg")},
            "names 'vgg', which is not one of the runs: resnet-8/seed-0",
        ),
        (
            {"kind": "between", "between": ("resnet-8/seed-0", "plain-8/seed-0")},
            "two runs of one model, got .* model.name is 'resnet' and 'plain'",
        ),
        (
            {"between": ("resnet-8/seed-0", "resnet-8/seed-1")},
            "--between requires --kind=between, got --kind=line",
        ),
        ({"statistics": "population"}, "population statistics need model.norm batch"),
    ],
)
def test_options_that_contradict_each_other(tmp_path, options, message):
    configs = {
        "resnet-8": make_config(),
        "plain-8": set_model(make_config(), "plain-8"),
        "layers-8": make_config(**{"model.norm": "layer"}),
    }
    directories = [tmp_path / name / "seed-0" for name in configs]
    for config, directory in zip(configs.values(), directories, strict=True):
        with open_workdir(directory, config, {}):
            pass
    with pytest.raises(ConfigError, match=message):
        analyze_runs(list(map(RunSource, directories)), tmp_path, Options(**options))
    assert not list(tmp_path.glob("landscape*"))


def test_flags(tmp_path, runs, parse):
    parse(landscape, "--kind=plane", "--points=3", "--images=40", "--reach=0.5", "--seed=7")
    rows = read_rows(landscape.analyze(runs[:1], tmp_path)[0])
    assert {row["x"] for row in rows} == {row["y"] for row in rows} == {-0.5, 0, 0.5}
    assert {row["seed"] for row in rows} == {"7"}
    parse(landscape, "--between=resnet-8/seed-0,plain-8/seed-0", "--kind=between")
    message = "names 'plain-8/seed-0', which is not one of the runs: resnet-8"
    with pytest.raises(ConfigError, match=message):
        landscape.analyze(runs, tmp_path)
    for wrong in ("--kind=cube", "--points=-1", "--statistics=own", "--reach=0"):
        with pytest.raises(flags.IllegalFlagValueError):
            parse(landscape, wrong)
