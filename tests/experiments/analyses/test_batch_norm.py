"""Inputs and outputs of norms, compared with a direct computation of each layer in NumPy."""

import csv
import dataclasses

import jax
import numpy as np
import optax
import pytest

from flaxres.data import Split
from flaxres.data.sampler import EpochSampler
from flaxres.errors import ConfigError
from flaxres.experiments.analyses.base import TrainedRun
from flaxres.experiments.analyses.batch_norm import (
    analyze_runs,
    measure_run,
    parameter_summary,
    statistics_gap,
)
from flaxres.experiments.analyses.model_sources import RunSource
from flaxres.experiments.analyses.norms import (
    NORMALIZED,
    NUM_BINS,
    QUANTITIES,
    STATISTICS,
    bin_edges,
    histogram,
    histogram_layers,
    measure_norms,
    read_norms,
)
from flaxres.run.workdir import open_workdir
from tests.conftest import small_config
from tests.experiments.analyses.test_population import write_untrained_run
from tests.inference.test_population_statistics import SIZE, dataset, random_variables

__all__ = ["dataset"]  # a fixture

NAMES = ["norm", *(f"stage{s}_block1/norm{n}" for s in (1, 2, 3) for n in (1, 2))]


@pytest.fixture
def run(config, dataset, tmp_path):
    """ResNet-8 with random weights and statistics."""
    config.batch_size = 6
    variables = random_variables(config, dataset)
    return TrainedRun("resnet-8/seed-0", config, dataset, variables, 20)


def reference(run, images, statistics):
    """Returns (input, normalized, output) of each norm of ResNet-8 (A), and the logits, in float64.

    The norms use the statistics of the batch or running statistics.
    """
    params, running = run.variables["params"], run.variables["batch_stats"]
    quantities = {}

    def layer(x, block, number, stride=1):
        layers = params[block] if block else params
        kernel = np.float64(layers[f"conv{number}"]["kernel"])
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        height, width = x.shape[1:3]
        offsets = [(i, j) for i in range(3) for j in range(3)]
        y = sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in offsets)
        y = y[:, ::stride, ::stride]
        norm = f"norm{number}"
        stored = (running[block] if block else running)[norm]
        mean, var = stored["mean"], stored["var"]
        if statistics == "batch":
            mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
        z = (y - mean) / np.sqrt(var + 1e-5)
        output = z * layers[norm]["scale"] + layers[norm]["bias"]
        quantities[f"{block}/{norm}" if block else norm] = (y, z, output)
        return output

    x = np.maximum(layer(images / 255.0 - run.dataset.mean_image(), "", ""), 0)
    for stage in (1, 2, 3):
        block, stride = f"stage{stage}_block1", 1 if stage == 1 else 2
        y = layer(np.maximum(layer(x, block, 1, stride), 0), block, 2)
        shortcut = x[:, ::stride, ::stride]
        added_channels = y.shape[3] - shortcut.shape[3]
        x = np.maximum(y + np.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, added_channels))), 0)
    return quantities, x.mean((1, 2)) @ params["dense"]["kernel"] + params["dense"]["bias"]


def test_norms_are_read_in_call_order(run):
    norms = read_norms(run)
    assert list(norms) == NAMES
    assert set(norms["norm"]) == {"mean", "var", "scale", "bias"}
    expected = run.variables["params"]["stage2_block1"]["norm1"]["scale"]
    np.testing.assert_array_equal(norms["stage2_block1/norm1"]["scale"], expected)
    assert histogram_layers(NAMES) == [NAMES[0], NAMES[3], NAMES[-1]]
    assert histogram_layers(NAMES[:1]) == NAMES[:1]


def test_norms_of_projections_are_included(config, dataset, tmp_path):
    config.model.shortcut = "B"
    variables = random_variables(config, dataset)
    names = list(read_norms(TrainedRun("b", config, dataset, variables, 0)))
    assert len(names) == 9
    i = names.index("stage2_block1/shortcut/norm")
    assert names[i - 1 : i + 2 : 2] == ["stage2_block1/norm1", "stage2_block1/norm2"]


@pytest.mark.parametrize("statistics", STATISTICS)
def test_moments_histograms_and_errors_match_a_direct_computation(run, statistics):
    progress = []
    measured = measure_norms(run, statistics, advance=lambda label, images: progress.append(images))
    assert progress == [6, 6, 6, 4]
    order = EpochSampler(SIZE, SIZE, 0).indices(0)[0]
    batches = [order[begin : begin + 6] for begin in range(0, SIZE, 6)]
    parts = [reference(run, run.dataset.test.images[rows], statistics) for rows in batches]
    expected = {
        name: [np.concatenate(arrays) for arrays in zip(*(p[0][name] for p in parts), strict=True)]
        for name in NAMES
    }
    assert list(measured.moments) == NAMES
    for name, (mean, var) in measured.moments.items():
        x = expected[name][0]
        np.testing.assert_allclose(mean, x.mean((0, 1, 2)), 1e-4, 1e-4, err_msg=name)
        np.testing.assert_allclose(var, x.var((0, 1, 2)), 1e-4, 1e-4, err_msg=name)

    norms = read_norms(run)
    layers = histogram_layers(NAMES)
    assert list(measured.histograms) == [(n, q) for n in layers for q in QUANTITIES]
    for (name, quantity), counts in measured.histograms.items():
        values = expected[name][QUANTITIES.index(quantity)].ravel()
        edges = bin_edges(norms[name], quantity)
        expected_counts = np.histogram(values, [-np.inf, *edges, np.inf])[0]
        assert counts.sum() == values.size
        # Rounding may move a value at an edge into the neighboring bin.
        difference = np.abs(counts - expected_counts).sum()
        assert difference <= 2 + values.size / 500, (name, quantity)

    logits, labels = np.concatenate([part[1] for part in parts]), run.dataset.test.labels[order]
    losses = optax.softmax_cross_entropy_with_integer_labels(np.float32(logits), labels)
    assert measured.averages["loss"] == pytest.approx(float(losses.mean()), rel=1e-4)
    error = 100 * np.mean(np.argmax(logits, 1) != labels)
    assert measured.averages["error"] == pytest.approx(error)


def test_the_first_images_of_a_split_are_measured_by_themselves(run):
    test = run.dataset.test
    first = Split(test.images[:7], test.labels[:7])
    few = dataclasses.replace(run, dataset=dataclasses.replace(run.dataset, test=first))
    tables = measure_run(run, "test", max_images=7)
    assert tables == measure_run(few, "test")
    assert tables == measure_run(few, "test", max_images=1000)


def test_there_is_no_gap_if_running_statistics_equal_batch_statistics(run):
    """One batch contains all images, and its statistics become the running statistics."""
    run.config.batch_size = SIZE
    moments = measure_norms(run, "batch").moments
    batch_stats = jax.tree.map(np.copy, run.variables["batch_stats"])
    for name, (mean, var) in moments.items():
        norm = batch_stats
        for part in name.split("/"):
            norm = norm[part]
        norm["mean"], norm["var"] = mean, var
    variables = {**run.variables, "batch_stats": batch_stats}
    same = TrainedRun(run.name, run.config, run.dataset, variables, 20)
    tables = measure_run(same, "test")
    for row in tables["gap"]:
        assert row["mean_rms"] == pytest.approx(0, abs=1e-4)
        assert row["std_rms"] == pytest.approx(0, abs=1e-4)
    batch, running = tables["errors"]
    assert batch["loss"] == pytest.approx(running["loss"], rel=1e-4)


def test_gap_parameters_and_bins_of_a_norm_match_values_by_hand():
    norm = {
        "mean": np.array([1.0, 2.0, 0.0]),
        "var": np.array([4.0, 1.0, 0.0]),
        "scale": np.array([1.0, 3.0, -1.0]),
        "bias": np.array([0.5, 0.5, 2.0]),
    }
    gap = statistics_gap(norm, np.array([2.0, 2.0, 0.0]), np.array([1.0, 9.0, 0.0]), epsilon=1e-12)
    means, stds = [0.5, 0, 0], [0.5, 3, 1]  # a channel that is always 0 has no gap
    assert gap == pytest.approx(
        {
            **{"mean": np.mean(means), "mean_rms": np.sqrt(0.25 / 3), "mean_most": 0.5},
            **{"std": np.mean(stds), "std_rms": np.sqrt((0.25 + 4) / 3)},
            **{"std_min": 0.5, "std_max": 3.0},
        }
    )
    assert parameter_summary(norm) == pytest.approx(
        {
            **{"scale_mean": 1, "scale_std": np.sqrt(8 / 3), "scale_min": -1, "scale_max": 3},
            **{"shift_mean": 1, "shift_std": np.sqrt(0.5), "shift_min": 0.5, "shift_max": 2},
        }
    )
    edges = bin_edges(norm, "input")
    std = np.sqrt(5 / 3 + 2 / 3)
    np.testing.assert_allclose([edges[0], edges[-1]], [1 - 5 * std, 1 + 5 * std], rtol=1e-6)
    assert len(bin_edges(norm, NORMALIZED)) == NUM_BINS + 1
    assert np.diff(bin_edges({"bias": np.zeros(2), "scale": np.zeros(2)}, "output")).min() > 0


def test_values_outside_the_bins_are_counted_at_the_ends():
    edges = np.linspace(-3, 3, NUM_BINS + 1, dtype=np.float32)
    values = np.float32([-1e30, -3.01, -2.99, 0.01, 2.99, 3.01, np.inf])
    counts = np.asarray(histogram(values, edges))
    expected = {0: 2, 1: 1, NUM_BINS // 2 + 1: 1, NUM_BINS: 1, NUM_BINS + 1: 2}
    assert {i: n for i, n in enumerate(counts.tolist()) if n} == expected


def test_files(tmp_path):
    write_untrained_run(tmp_path / "resnet-8" / "seed-0")
    written = analyze_runs([RunSource(tmp_path / "resnet-8" / "seed-0")], tmp_path)
    tables = ("errors", "gap", "parameters", "histograms")
    names = [f"{table}.csv" for table in tables]
    figures = ("gap", "parameters", "histograms_resnet-8")
    names += [f"{figure}.{extension}" for figure in figures for extension in ("png", "svg")]
    files = [tmp_path / f"batch_norm_{name}" for name in names]
    assert written == files
    assert all(file.stat().st_size > 100 for file in files)
    rows = [list(csv.DictReader(file.read_text().splitlines())) for file in files[:4]]
    num_bins = len(QUANTITIES) * (NUM_BINS + 2) * 3
    assert [len(table) for table in rows] == [2, 2 * len(NAMES), len(NAMES), 2 * num_bins]
    assert {row["split"] for row in rows[0]} == {"test"}
    assert {(row["scale_mean"], row["shift_std"]) for row in rows[2]} == {("1", "0")}
    area = sum(
        float(row["density"]) * (float(row["high"]) - float(row["low"]))
        for row in rows[3][1 : NUM_BINS + 1]
    )
    assert 0.95 < area < 1.001


@pytest.mark.parametrize("norm", ["instance-running", "none"])
def test_a_model_without_batch_norm_is_rejected_before_any_is_measured(tmp_path, norm):
    directories = [tmp_path / "runs" / name / "seed-0" for name in ("resnet-8", "other")]
    for directory, model_norm in zip(directories, ("batch", norm), strict=True):
        config = small_config()
        config.model.norm = model_norm
        with open_workdir(directory, config, {}):
            pass
    message = rf"other/seed-0: .*model\.norm='batch', got '{norm}'"
    with pytest.raises(ConfigError, match=message):
        analyze_runs(list(map(RunSource, directories)), tmp_path)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "runs"]
