"""Population statistics, compared with a direct computation of each layer in NumPy."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from flaxres.data import Dataset, Split
from flaxres.errors import ConfigError
from flaxres.inference.population_statistics import (
    MomentAccumulator,
    check_has_statistics,
    epoch_batches,
    make_batch_statistics,
    population_statistics,
)
from flaxres.models import create_model
from tests.conftest import init

SIZE = 22  # training images


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (SIZE, 8, 8, 1), dtype=np.uint8)
    split = Split(images, rng.integers(0, 10, SIZE).astype(np.int32))
    return Dataset("random", split, split, 10)


@pytest.fixture
def config(config):
    config.batch_size = 6
    return config


def random_variables(config, dataset, seed=0):
    """Returns random variables; their batch statistics must not matter."""
    rng = np.random.default_rng(seed)
    model = create_model(config.model, 10)
    variables = init(model, dataset.train.images / 255.0)
    return jax.tree.map(lambda leaf: leaf + 0.3 * rng.random(leaf.shape, np.float32), variables)


def reference_statistics(params, images, mean):
    """Returns mean and variance of the input of each norm of ResNet-8 (A), in float64."""
    statistics = {}

    def layer(x, block, number, stride=1):
        layers = params[block] if block else params
        kernel, norm = layers[f"conv{number}"]["kernel"], layers[f"norm{number}"]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        height, width = x.shape[1:3]
        y = sum(
            padded[:, i : i + height, j : j + width] @ np.float64(kernel[i, j])
            for i in range(3)
            for j in range(3)
        )
        y = y[:, ::stride, ::stride]
        mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
        path = (block, f"norm{number}") if block else ("norm",)
        statistics[*path, "mean"], statistics[*path, "var"] = mean, var
        return (y - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]

    x = np.maximum(layer(images / 255.0 - mean, "", ""), 0)
    for stage in (1, 2, 3):
        block, stride = f"stage{stage}_block1", 1 if stage == 1 else 2
        y = layer(np.maximum(layer(x, block, 1, stride), 0), block, 2)
        shortcut = x[:, ::stride, ::stride]
        added_channels = y.shape[3] - shortcut.shape[3]
        x = np.maximum(y + np.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, added_channels))), 0)
    return statistics


def combine(parts, sizes):
    """Combines the statistics of batches by the textbook formula: means of the two moments."""
    combined = {}
    for path in parts[0]:
        if path[-1] == "mean":
            var = (*path[:-1], "var")
            combined[path] = np.average([part[path] for part in parts], 0, sizes)
            squares = [part[var] + part[path] ** 2 for part in parts]
            combined[var] = np.average(squares, 0, sizes) - combined[path] ** 2
    return combined


def assert_close(statistics, expected, tolerance=1e-4):
    statistics = traverse_util.flatten_dict(statistics)
    assert statistics.keys() == expected.keys()
    for path, leaf in statistics.items():
        assert leaf.dtype == np.float32
        np.testing.assert_allclose(leaf, expected[path], tolerance, tolerance, err_msg=str(path))


def test_one_batch_of_all_images_at_every_layer(config, dataset):
    config.batch_size = SIZE
    variables = random_variables(config, dataset)
    statistics = population_statistics(config, dataset, variables)
    images = dataset.train.images
    assert_close(
        statistics, reference_statistics(variables["params"], images, dataset.mean_image())
    )


def test_several_batches_at_every_layer(config, dataset):
    variables = random_variables(config, dataset)
    statistics = population_statistics(config, dataset, variables)
    batches = epoch_batches(SIZE, 6, config.seed)
    sizes = [len(rows) for rows in batches]
    assert sizes == [6, 6, 6, 4]
    mean = dataset.mean_image()
    parts = [
        reference_statistics(variables["params"], dataset.train.images[rows], mean)
        for rows in batches
    ]
    assert_close(statistics, combine(parts, sizes))
    # The statistics of the first layer are exact: its input does not depend on the batches.
    whole = reference_statistics(variables["params"], dataset.train.images, mean)
    for name in ("mean", "var"):
        np.testing.assert_allclose(
            statistics["norm"][name], whole["norm", name], rtol=1e-5, atol=1e-6
        )


def test_bfloat16_is_near_float32(config, dataset):
    exact = population_statistics(config, dataset, random_variables(config, dataset))
    config.dtype = "bfloat16"
    rounded = population_statistics(config, dataset, random_variables(config, dataset))
    assert_close(rounded, traverse_util.flatten_dict(exact), tolerance=0.1)


def test_scan_and_rematerialization_change_nothing(config, dataset):
    config.model.depth, config.model.widths = 20, (4, 4, 4)  # three blocks in a stage: a scan
    config.batch_size = SIZE
    variables = random_variables(config, dataset)
    unrolled = population_statistics(config, dataset, variables)
    config.model.scan = config.model.remat = True
    looped = population_statistics(config, dataset, variables)
    assert_close(looped, traverse_util.flatten_dict(unrolled), tolerance=1e-3)


def test_dropout_is_active_and_reproducible(config, dataset):
    config.model.shortcut = "dropout"
    variables = random_variables(config, dataset)
    batch_statistics = make_batch_statistics(config, dataset)
    rows = np.arange(6)
    first, repeated, other = (
        jax.device_get(batch_statistics(variables, rows, number)) for number in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, first, repeated)
    means = [statistics["stage3_block1"]["norm1"]["mean"] for statistics in (first, other)]
    assert np.abs(means[0] - means[1]).max() > 0.01
    np.testing.assert_array_equal(first["norm"]["mean"], other["norm"]["mean"])


def test_instance_norm_averages_over_images(config, dataset):
    config.model.norm = "instance-running"
    variables = random_variables(config, dataset)
    statistics = population_statistics(config, dataset, variables)
    images = dataset.train.images / 255.0 - dataset.mean_image()
    kernel = np.float64(variables["params"]["conv"]["kernel"])
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = sum(padded[:, i : i + 8, j : j + 8] @ kernel[i, j] for i in range(3) for j in range(3))
    expected = {"instance_mean": x.mean((0, 1, 2)), "instance_var": x.var((1, 2)).mean(0)}
    for name, value in expected.items():
        np.testing.assert_allclose(statistics["norm"][name], value, rtol=1e-4, atol=1e-6)
    # Instance norm treats each image separately, so the batches do not matter in any layer.
    config.batch_size = SIZE
    whole = population_statistics(config, dataset, variables)
    assert_close(statistics, traverse_util.flatten_dict(whole))


def test_a_large_mean_and_a_small_variance():
    """Float32, or the difference of squares, would lose all digits here."""
    rng = np.random.default_rng(0)
    parts = [rng.normal(1e6, 1e-2, (size, 3)) for size in (1, 7, 30, 2)]
    accumulator = MomentAccumulator()
    for part in parts:
        statistics = {"mean": part.mean(0), "var": part.var(0)}
        accumulator.add({"norm": statistics}, len(part))
    images = np.concatenate(parts)
    norm = accumulator.statistics()["norm"]
    assert accumulator.count == 40
    np.testing.assert_allclose(norm["mean"], images.mean(0), rtol=1e-7)
    np.testing.assert_allclose(norm["var"], images.var(0), rtol=1e-5)


@pytest.mark.parametrize(("size", "batch_size"), [(22, 6), (24, 6), (5, 5), (7, 1)])
def test_every_image_once_in_training_order(size, batch_size):
    batches = epoch_batches(size, batch_size, seed=3)
    assert [len(rows) for rows in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= batch_size
    rows = np.concatenate(batches)
    np.testing.assert_array_equal(np.sort(rows), np.arange(size))
    assert size < 20 or (rows != np.concatenate(epoch_batches(size, batch_size, 3, 1))).any()


@pytest.mark.parametrize("norm", ["group", "layer", "instance", "none"])
def test_norms_without_statistics(config, dataset, norm):
    config.model.norm = norm
    with pytest.raises(ConfigError, match=rf"model\.norm batch or .*, got '{norm}' in resnet-8"):
        make_batch_statistics(config, dataset)


def test_several_replicas(config):
    config.num_replicas = 2
    with pytest.raises(ConfigError, match="need num_replicas=1, got 2"):
        check_has_statistics(config)
