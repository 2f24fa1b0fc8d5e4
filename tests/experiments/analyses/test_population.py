"""Errors with population statistics against statistics pooled and a loss taken in NumPy."""

import csv

import numpy as np
import optax
import pytest
from flax import traverse_util

from experiments.analyses.base import TrainedRun
from experiments.analyses.population import Options, image_counts, measure, study
from flaxres.data import load_dataset
from flaxres.data.sampler import EpochSampler
from flaxres.errors import ConfigError
from flaxres.models import create_model
from flaxres.run.checkpoint import Checkpoints
from flaxres.run.workdir import open_workdir
from flaxres.training.compiled_steps import CompiledSteps
from tests.conftest import quick_jit, small_config
from tests.inference.test_population_statistics import (
    SIZE,
    by_hand,
    dataset,
    pooled_by_hand,
    some_variables,
)

__all__ = ["dataset"]  # a fixture


def untrained(directory):
    """A run that has made no step, with its checkpoint."""
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


def test_errors_are_those_of_statistics_pooled_by_hand(config, dataset, tmp_path):
    config.batch_size, config.eval_batch_size = 6, 10
    variables = some_variables(config, dataset)
    run = TrainedRun("resnet-8/seed-0", config, tmp_path, dataset, variables, 20)
    told = []
    rows = measure(run, Options(trials=3, seed=5), lambda what, cost: told.append((what, cost)))
    assert told == [("resnet-8/seed-0", 8)] * 3
    assert [(row["images"], row["trials"]) for row in rows] == [(6, 3), (12, 3), (SIZE, 3)]

    net, mean = create_model(config.model, 10), dataset.mean_image()
    images, labels = dataset.test.images / np.float32(255) - mean, dataset.test.labels
    apply = quick_jit(lambda stats: net.apply({**variables, "batch_stats": stats}, images, False))

    def averages(stats):
        logits = apply(stats)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return float(losses.mean()), 100 * np.mean(np.argmax(logits, 1) != labels)

    loss, error = averages(variables["batch_stats"])
    for row in rows:
        assert row["running_loss"] == pytest.approx(loss, rel=1e-4)
        assert row["running_error"] == pytest.approx(error)
    trials = []
    for trial in range(3):
        order = EpochSampler(SIZE, SIZE, 5).indices(trial)[0]
        parts, sizes, found = [], [], []
        for begin, end in ((0, 6), (6, 12), (12, 18), (18, SIZE)):
            own = dataset.train.images[order[begin:end]]
            parts.append(by_hand(variables["params"], own, mean))
            sizes.append(end - begin)
            if end != 18:
                pooled = pooled_by_hand(parts, sizes)
                pooled = {path: np.float32(leaf) for path, leaf in pooled.items()}
                found.append(averages(traverse_util.unflatten_dict(pooled)))
        trials.append(found)
    for row, own in zip(rows, np.swapaxes(trials, 0, 1), strict=True):
        assert row["loss"] == pytest.approx(own[:, 0].mean(), rel=1e-3)
        assert row["loss_std"] == pytest.approx(own[:, 0].std(ddof=1), abs=1e-3)
        assert row["error"] == pytest.approx(own[:, 1].mean())
        assert row["error_std"] == pytest.approx(own[:, 1].std(ddof=1), abs=1e-6)
    assert rows[0]["loss_std"] > 2 * rows[-1]["loss_std"]


def test_the_command_line(python, tmp_path):
    workdir = tmp_path / "runs"
    untrained(workdir / "resnet-8" / "seed-0")
    done = python("-m", "experiments.analyze", "population", f"--workdir={workdir}", "--trials=1")
    assert done.returncode == 0, done.stderr
    names = ["population.csv"]
    names += [f"population{kind}.{end}" for kind in ("", "_loss") for end in ("png", "svg")]
    files = [workdir / "analyses" / name for name in names]
    assert done.stdout.splitlines() == list(map(str, files))
    assert all(file.stat().st_size > 200 for file in files)
    rows = list(csv.DictReader(files[0].read_text().splitlines()))
    assert [(row["run"], row["images"]) for row in rows] == [
        ("resnet-8/seed-0", images) for images in ("512", "1024", "1437")
    ]
    assert {row["loss_std"] for row in rows} == {"0"}


def test_a_net_without_statistics(tmp_path):
    """It is found before anything is measured."""
    directories = [tmp_path / "runs" / net / "seed-0" for net in ("resnet-8", "resnet-8-group")]
    for directory, norm in zip(directories, ("batch", "group"), strict=True):
        config = small_config()
        config.model.norm = norm
        with open_workdir(directory, config, {}):
            pass
    with pytest.raises(ConfigError, match=r"resnet-8-group/seed-0: population .* got 'group'"):
        study(directories, tmp_path, Options())
    assert sorted(tmp_path.iterdir()) == [tmp_path / "runs"]
