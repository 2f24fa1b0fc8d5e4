"""What norms take and give against a direct computation of each layer in NumPy."""

import csv

import jax
import numpy as np
import optax
import pytest

from experiments.analyses.base import TrainedRun
from experiments.analyses.batch_norm import gap_of, parameters_of, rows_of_run, study
from experiments.analyses.norms import (
    NUM_BINS,
    QUANTITIES,
    STATISTICS,
    bins_of,
    drawn,
    histogram,
    measure,
    norms_of,
)
from flaxres.data.sampler import EpochSampler
from flaxres.errors import ConfigError
from flaxres.run.workdir import open_workdir
from tests.conftest import small_config
from tests.experiments.analyses.test_population import untrained
from tests.inference.test_population_statistics import SIZE, dataset, some_variables

__all__ = ["dataset"]  # a fixture

NAMES = ["norm", *(f"stage{s}_block1/norm{n}" for s in (1, 2, 3) for n in (1, 2))]


@pytest.fixture
def run(config, dataset, tmp_path):
    """ResNet-8 with random weights and statistics."""
    config.batch_size = 6
    variables = some_variables(config, dataset)
    return TrainedRun("resnet-8/seed-0", config, tmp_path, dataset, variables, 20)


def direct(run, images, statistics):
    """(input, normalised, output) of each norm of ResNet-8 (A), and the logits; float64."""
    params, running = run.variables["params"], run.variables["batch_stats"]
    seen = {}

    def layer(x, block, number, stride=1):
        own = params[block] if block else params
        kernel = np.float64(own[f"conv{number}"]["kernel"])
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        height, width = x.shape[1:3]
        places = [(i, j) for i in range(3) for j in range(3)]
        y = sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in places)
        y = y[:, ::stride, ::stride]
        norm = f"norm{number}"
        kept = (running[block] if block else running)[norm]
        mean, var = kept["mean"], kept["var"]
        if statistics == "batch":
            mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
        z = (y - mean) / np.sqrt(var + 1e-5)
        out = z * own[norm]["scale"] + own[norm]["bias"]
        seen[f"{block}/{norm}" if block else norm] = (y, z, out)
        return out

    x = np.maximum(layer(images / 255.0 - run.dataset.mean_image(), "", ""), 0)
    for stage in (1, 2, 3):
        block, stride = f"stage{stage}_block1", 1 if stage == 1 else 2
        y = layer(np.maximum(layer(x, block, 1, stride), 0), block, 2)
        shortcut = x[:, ::stride, ::stride]
        more = y.shape[3] - shortcut.shape[3]
        x = np.maximum(y + np.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, more))), 0)
    return seen, x.mean((1, 2)) @ params["dense"]["kernel"] + params["dense"]["bias"]


def test_norms_in_the_order_in_which_they_are_called(run):
    norms = norms_of(run)
    assert list(norms) == NAMES
    assert set(norms["norm"]) == {"mean", "var", "scale", "bias"}
    own = run.variables["params"]["stage2_block1"]["norm1"]["scale"]
    np.testing.assert_array_equal(norms["stage2_block1/norm1"]["scale"], own)
    assert drawn(NAMES) == [NAMES[0], NAMES[3], NAMES[-1]]
    assert drawn(NAMES[:1]) == NAMES[:1]


def test_norms_of_projections_too(config, dataset, tmp_path):
    config.model.shortcut = "B"
    variables = some_variables(config, dataset)
    names = list(norms_of(TrainedRun("b", config, tmp_path, dataset, variables, 0)))
    assert len(names) == 9
    at = names.index("stage2_block1/shortcut/norm")
    assert names[at - 1 : at + 2 : 2] == ["stage2_block1/norm1", "stage2_block1/norm2"]


@pytest.mark.parametrize("statistics", STATISTICS)
def test_moments_histograms_and_errors_by_hand(run, statistics):
    told = []
    ours = measure(run, statistics, done=lambda what, images: told.append(images))
    assert told == [6, 6, 6, 4]
    order = EpochSampler(SIZE, SIZE, 0).indices(0)[0]
    batches = [order[begin : begin + 6] for begin in range(0, SIZE, 6)]
    parts = [direct(run, run.dataset.test.images[rows], statistics) for rows in batches]
    together = {
        name: [np.concatenate(arrays) for arrays in zip(*(p[0][name] for p in parts), strict=True)]
        for name in NAMES
    }
    assert list(ours.moments) == NAMES
    for name, (mean, var) in ours.moments.items():
        x = together[name][0]
        np.testing.assert_allclose(mean, x.mean((0, 1, 2)), 1e-4, 1e-4, err_msg=name)
        np.testing.assert_allclose(var, x.var((0, 1, 2)), 1e-4, 1e-4, err_msg=name)

    norms = norms_of(run)
    assert list(ours.histograms) == [(n, q) for n in drawn(NAMES) for q in QUANTITIES]
    for (name, quantity), counts in ours.histograms.items():
        values = together[name][QUANTITIES.index(quantity)].ravel()
        edges = bins_of(norms[name], quantity)
        theirs = np.histogram(values, [-np.inf, *edges, np.inf])[0]
        assert counts.sum() == values.size
        # A value at an edge may go either way.
        assert np.abs(counts - theirs).sum() <= 2 + values.size / 500, (name, quantity)

    logits, labels = np.concatenate([part[1] for part in parts]), run.dataset.test.labels[order]
    losses = optax.softmax_cross_entropy_with_integer_labels(np.float32(logits), labels)
    assert ours.averages["loss"] == pytest.approx(float(losses.mean()), rel=1e-4)
    assert ours.averages["error"] == pytest.approx(100 * np.mean(np.argmax(logits, 1) != labels))


def test_a_net_that_goes_by_the_statistics_of_its_images_has_no_gap(run):
    """In one batch of all images, once these statistics are the running ones too."""
    run.config.batch_size = SIZE
    moments = measure(run, "batch").moments
    stats = jax.tree.map(np.copy, run.variables["batch_stats"])
    for name, (mean, var) in moments.items():
        place = stats
        for part in name.split("/"):
            place = place[part]
        place["mean"], place["var"] = mean, var
    fitting = TrainedRun(
        run.name, run.config, run.workdir, run.dataset, {**run.variables, "batch_stats": stats}, 20
    )
    tables = rows_of_run(fitting, "test")
    for row in tables["gap"]:
        assert row["mean_rms"] == pytest.approx(0, abs=1e-4)
        assert row["std_rms"] == pytest.approx(0, abs=1e-4)
    batch, running = tables["errors"]
    assert batch["loss"] == pytest.approx(running["loss"], rel=1e-4)


def test_the_gap_and_the_parameters_of_a_norm_by_hand():
    norm = {
        "mean": np.array([1.0, 2.0, 0.0]),
        "var": np.array([4.0, 1.0, 0.0]),
        "scale": np.array([1.0, 3.0, -1.0]),
        "bias": np.array([0.5, 0.5, 2.0]),
    }
    gap = gap_of(norm, np.array([2.0, 2.0, 0.0]), np.array([1.0, 9.0, 0.0]), epsilon=1e-12)
    means, stds = [0.5, 0, 0], [0.5, 3, 1]  # a channel that is always 0 has no gap
    assert gap == pytest.approx(
        {
            **{"mean": np.mean(means), "mean_rms": np.sqrt(0.25 / 3), "mean_most": 0.5},
            **{"std": np.mean(stds), "std_rms": np.sqrt((0.25 + 4) / 3)},
            **{"std_min": 0.5, "std_max": 3.0},
        }
    )
    assert parameters_of(norm) == pytest.approx(
        {
            **{"scale_mean": 1, "scale_std": np.sqrt(8 / 3), "scale_min": -1, "scale_max": 3},
            **{"shift_mean": 1, "shift_std": np.sqrt(0.5), "shift_min": 0.5, "shift_max": 2},
        }
    )
    edges = bins_of(norm, "input")
    std = np.sqrt(5 / 3 + 2 / 3)
    np.testing.assert_allclose([edges[0], edges[-1]], [1 - 5 * std, 1 + 5 * std], rtol=1e-6)
    assert len(bins_of(norm, "normalised")) == NUM_BINS + 1
    assert np.diff(bins_of({"bias": np.zeros(2), "scale": np.zeros(2)}, "output")).min() > 0


def test_values_outside_the_bins_are_counted_at_the_ends():
    edges = np.linspace(-3, 3, NUM_BINS + 1, dtype=np.float32)
    values = np.float32([-1e30, -3.01, -2.99, 0.01, 2.99, 3.01, np.inf])
    counts = np.asarray(histogram(values, edges))
    places = {0: 2, 1: 1, NUM_BINS // 2 + 1: 1, NUM_BINS: 1, NUM_BINS + 1: 2}
    assert {i: n for i, n in enumerate(counts.tolist()) if n} == places


def test_files(tmp_path):
    untrained(tmp_path / "resnet-8" / "seed-0")
    written = study([tmp_path / "resnet-8" / "seed-0"], tmp_path)
    tables = ("errors", "gap", "parameters", "histograms")
    names = [f"{table}.csv" for table in tables]
    figures = ("gap", "parameters", "histograms_resnet-8")
    names += [f"{figure}.{end}" for figure in figures for end in ("png", "svg")]
    files = [tmp_path / f"batch_norm_{name}" for name in names]
    assert written == files
    assert all(file.stat().st_size > 100 for file in files)
    rows = [list(csv.DictReader(file.read_text().splitlines())) for file in files[:4]]
    bins = len(QUANTITIES) * (NUM_BINS + 2) * 3
    assert [len(table) for table in rows] == [2, 2 * len(NAMES), len(NAMES), 2 * bins]
    assert {row["split"] for row in rows[0]} == {"test"}
    assert {(row["scale_mean"], row["shift_std"]) for row in rows[2]} == {("1", "0")}
    area = sum(
        float(row["density"]) * (float(row["high"]) - float(row["low"]))
        for row in rows[3][1 : NUM_BINS + 1]
    )
    assert 0.95 < area < 1.001


@pytest.mark.parametrize("norm", ["instance-running", "none"])
def test_a_net_without_batch_norm(tmp_path, norm):
    """It is found before anything is measured."""
    directories = [tmp_path / "runs" / net / "seed-0" for net in ("resnet-8", "other")]
    for directory, name in zip(directories, ("batch", norm), strict=True):
        config = small_config()
        config.model.norm = name
        with open_workdir(directory, config, {}):
            pass
    with pytest.raises(ConfigError, match=rf"other/seed-0: .*model\.norm batch, got '{norm}'"):
        study(directories, tmp_path)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "runs"]
