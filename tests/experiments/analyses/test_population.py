"""Errors with population statistics, compared with statistics and losses computed in NumPy."""

import csv
import dataclasses

import numpy as np
import optax
import pytest
from flax import traverse_util

from flaxres.data import Split, load_dataset
from flaxres.data.sampler import EpochSampler
from flaxres.errors import ConfigError
from flaxres.experiments.analyses.base import TrainedRun
from flaxres.experiments.analyses.model_sources import RunSource
from flaxres.experiments.analyses.population import Options, analyze_runs, image_counts, measure
from flaxres.models import create_model
from flaxres.run.checkpoint import Checkpoints
from flaxres.run.workdir import open_workdir
from flaxres.training.compiled_steps import CompiledSteps
from tests.conftest import quick_jit, small_config
from tests.inference.test_population_statistics import (
    SIZE,
    combine,
    dataset,
    random_variables,
    reference_statistics,
)

__all__ = ["dataset"]  # a fixture


def write_untrained_run(directory):
    """Writes a run at step 0, with its checkpoint."""
    config = small_config()
    config.batch_size = 512
    with open_workdir(directory, config, {}):
        pass
    compiled_steps = CompiledSteps(config, load_dataset(config.dataset))
    with Checkpoints(directory, 1) as checkpoints:
        checkpoints.save(0, compiled_steps.initial_state())
        checkpoints.wait()


@pytest.mark.parametrize(
    ("num_images", "batch_size", "counts"),
    [
        (1437, 128, [128, 256, 512, 1024, 1437]),
        (1024, 128, [128, 256, 512, 1024]),
        (50, 50, [50]),
    ],
)
def test_image_counts(num_images, batch_size, counts):
    assert image_counts(num_images, batch_size) == counts


def test_errors_match_statistics_combined_in_numpy(config, dataset, tmp_path):
    config.batch_size, config.eval_batch_size = 6, 10
    variables = random_variables(config, dataset)
    run = TrainedRun("resnet-8/seed-0", config, dataset, variables, 20)
    progress = []
    options = Options(trials=3, seed=5)
    rows = measure(run, options, lambda label, cost: progress.append((label, cost)))
    assert progress == [("resnet-8/seed-0", 8)] * 3
    assert [(row["images"], row["trials"]) for row in rows] == [(6, 3), (12, 3), (SIZE, 3)]

    model, mean_image = create_model(config.model, 10), dataset.mean_image()
    images, labels = dataset.test.images / np.float32(255) - mean_image, dataset.test.labels
    apply = quick_jit(lambda stats: model.apply({**variables, "batch_stats": stats}, images, False))

    def loss_and_error(stats):
        logits = apply(stats)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return float(losses.mean()), 100 * np.mean(np.argmax(logits, 1) != labels)

    loss, error = loss_and_error(variables["batch_stats"])
    for row in rows:
        assert row["running_loss"] == pytest.approx(loss, rel=1e-4)
        assert row["running_error"] == pytest.approx(error)
    trials = []
    for trial in range(3):
        order = EpochSampler(SIZE, SIZE, 5).indices(trial)[0]
        parts, sizes, metrics = [], [], []
        for begin, end in ((0, 6), (6, 12), (12, 18), (18, SIZE)):
            batch = dataset.train.images[order[begin:end]]
            parts.append(reference_statistics(variables["params"], batch, mean_image))
            sizes.append(end - begin)
            if end != 18:
                stats = combine(parts, sizes)
                stats = {path: np.float32(leaf) for path, leaf in stats.items()}
                metrics.append(loss_and_error(traverse_util.unflatten_dict(stats)))
        trials.append(metrics)
    for row, expected in zip(rows, np.swapaxes(trials, 0, 1), strict=True):
        assert row["loss"] == pytest.approx(expected[:, 0].mean(), rel=1e-3)
        assert row["loss_std"] == pytest.approx(expected[:, 0].std(ddof=1), abs=1e-3)
        assert row["error"] == pytest.approx(expected[:, 1].mean())
        assert row["error_std"] == pytest.approx(expected[:, 1].std(ddof=1), abs=1e-6)
    assert rows[0]["loss_std"] > 2 * rows[-1]["loss_std"]


def test_the_largest_number_of_images_is_that_of_the_first_batches(config, dataset):
    config.batch_size, config.eval_batch_size = 6, 10
    variables = random_variables(config, dataset)
    run = TrainedRun("resnet-8/seed-0", config, dataset, variables, 20)
    everything = measure(run, Options(trials=2))
    rows = measure(run, Options(trials=2, train_images=8, images=10))
    assert [row["images"] for row in rows] == [6, 8]
    assert measure(run, Options(trials=2, train_images=10**6)) == everything
    first_batch = measure(run, Options(trials=2, train_images=6))
    assert first_batch == [everything[0]]
    test = Split(dataset.test.images[:10], dataset.test.labels[:10])
    few = dataclasses.replace(run, dataset=dataclasses.replace(dataset, test=test))
    assert measure(few, Options(trials=2, train_images=8)) == rows


def test_command_line(python, tmp_path):
    workdir = tmp_path / "runs"
    write_untrained_run(workdir / "resnet-8" / "seed-0")
    done = python("-m", "experiments.analyze", "population", f"--workdir={workdir}", "--trials=1")
    assert done.returncode == 0, done.stderr
    names = ["population.csv"]
    names += [
        f"population{metric}.{extension}"
        for metric in ("", "_loss")
        for extension in ("png", "svg")
    ]
    files = [workdir / "analyses" / name for name in names]
    assert done.stdout.splitlines() == list(map(str, files))
    assert all(file.stat().st_size > 200 for file in files)
    rows = list(csv.DictReader(files[0].read_text().splitlines()))
    assert [(row["run"], row["images"]) for row in rows] == [
        ("resnet-8/seed-0", images) for images in ("512", "1024", "1437")
    ]
    assert {row["loss_std"] for row in rows} == {"0"}


def test_a_model_without_statistics_is_rejected_before_any_is_measured(tmp_path):
    directories = [tmp_path / "runs" / name / "seed-0" for name in ("resnet-8", "resnet-8-group")]
    for directory, norm in zip(directories, ("batch", "group"), strict=True):
        config = small_config()
        config.model.norm = norm
        with open_workdir(directory, config, {}):
            pass
    with pytest.raises(ConfigError, match=r"resnet-8-group/seed-0: population .* got 'group'"):
        analyze_runs(list(map(RunSource, directories)), tmp_path, Options())
    assert sorted(tmp_path.iterdir()) == [tmp_path / "runs"]
