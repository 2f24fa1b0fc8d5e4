"""Pooled statistics against a direct computation of each layer and their pooling in NumPy."""

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


def some_variables(config, dataset, seed=0):
    """Random variables, statistics too, which must not matter."""
    rng = np.random.default_rng(seed)
    net = create_model(config.model, 10)
    variables = init(net, dataset.train.images / 255.0)
    return jax.tree.map(lambda leaf: leaf + 0.3 * rng.random(leaf.shape, np.float32), variables)


def by_hand(params, images, mean):
    """Mean and variance in front of each norm of ResNet-8 (A), in a batch of its own; float64."""
    statistics = {}

    def layer(x, block, number, stride=1):
        own = params[block] if block else params
        kernel, norm = own[f"conv{number}"]["kernel"], own[f"norm{number}"]
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
        more = y.shape[3] - shortcut.shape[3]
        x = np.maximum(y + np.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, more))), 0)
    return statistics


def pooled_by_hand(parts, sizes):
    """The textbook's formula: means of first and second moments."""
    pooled = {}
    for path in parts[0]:
        if path[-1] == "mean":
            var = (*path[:-1], "var")
            pooled[path] = np.average([part[path] for part in parts], 0, sizes)
            squares = [part[var] + part[path] ** 2 for part in parts]
            pooled[var] = np.average(squares, 0, sizes) - pooled[path] ** 2
    return pooled


def assert_close(ours, theirs, tolerance=1e-4):
    ours = traverse_util.flatten_dict(ours)
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        assert leaf.dtype == np.float32
        np.testing.assert_allclose(leaf, theirs[path], tolerance, tolerance, err_msg=str(path))


def test_one_batch_of_all_images_at_every_layer(config, dataset):
    config.batch_size = SIZE
    variables = some_variables(config, dataset)
    ours = population_statistics(config, dataset, variables)
    images = dataset.train.images
    assert_close(ours, by_hand(variables["params"], images, dataset.mean_image()))


def test_several_batches_at_every_layer(config, dataset):
    variables = some_variables(config, dataset)
    ours = population_statistics(config, dataset, variables)
    batches = epoch_batches(SIZE, 6, config.seed)
    sizes = [len(rows) for rows in batches]
    assert sizes == [6, 6, 6, 4]
    mean = dataset.mean_image()
    parts = [by_hand(variables["params"], dataset.train.images[rows], mean) for rows in batches]
    assert_close(ours, pooled_by_hand(parts, sizes))
    # The first layer's are exact: its input does not depend on the batches.
    whole = by_hand(variables["params"], dataset.train.images, mean)
    for name in ("mean", "var"):
        np.testing.assert_allclose(ours["norm"][name], whole["norm", name], rtol=1e-5, atol=1e-6)


def test_bfloat16_is_near_float32(config, dataset):
    exact = population_statistics(config, dataset, some_variables(config, dataset))
    config.dtype = "bfloat16"
    rounded = population_statistics(config, dataset, some_variables(config, dataset))
    assert_close(rounded, traverse_util.flatten_dict(exact), tolerance=0.1)


def test_loops_and_rematerialisation_change_nothing(config, dataset):
    config.model.depth, config.model.widths = 20, (4, 4, 4)  # three blocks in a stage: a loop
    config.batch_size = SIZE
    variables = some_variables(config, dataset)
    unrolled = population_statistics(config, dataset, variables)
    config.model.scan = config.model.remat = True
    looped = population_statistics(config, dataset, variables)
    assert_close(looped, traverse_util.flatten_dict(unrolled), tolerance=1e-3)


def test_dropout_drops_as_in_training_and_can_be_repeated(config, dataset):
    config.model.shortcut = "dropout"
    variables = some_variables(config, dataset)
    batch_statistics = make_batch_statistics(config, dataset)
    rows = np.arange(6)
    one, again, other = (
        jax.device_get(batch_statistics(variables, rows, number)) for number in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, one, again)
    last = [statistics["stage3_block1"]["norm1"]["mean"] for statistics in (one, other)]
    assert np.abs(last[0] - last[1]).max() > 0.01
    np.testing.assert_array_equal(one["norm"]["mean"], other["norm"]["mean"])


def test_instance_norm_pools_means_over_images(config, dataset):
    config.model.norm = "instance-running"
    variables = some_variables(config, dataset)
    ours = population_statistics(config, dataset, variables)
    images = dataset.train.images / 255.0 - dataset.mean_image()
    kernel = np.float64(variables["params"]["conv"]["kernel"])
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = sum(padded[:, i : i + 8, j : j + 8] @ kernel[i, j] for i in range(3) for j in range(3))
    expected = {"instance_mean": x.mean((0, 1, 2)), "instance_var": x.var((1, 2)).mean(0)}
    for name, value in expected.items():
        np.testing.assert_allclose(ours["norm"][name], value, rtol=1e-4, atol=1e-6)
    # Its images do not see each other, so no layer's statistics depend on the batches.
    config.batch_size = SIZE
    whole = population_statistics(config, dataset, variables)
    assert_close(ours, traverse_util.flatten_dict(whole))


def test_a_pool_of_a_large_mean_and_a_small_variance():
    """Where float32, or the difference of squares, would have no digit left."""
    rng = np.random.default_rng(0)
    parts = [rng.normal(1e6, 1e-2, (size, 3)) for size in (1, 7, 30, 2)]
    pool = MomentAccumulator()
    for part in parts:
        statistics = {"mean": part.mean(0), "var": part.var(0)}
        pool.add({"norm": statistics}, len(part))
    together = np.concatenate(parts)
    ours = pool.statistics()["norm"]
    assert pool.count == 40
    np.testing.assert_allclose(ours["mean"], together.mean(0), rtol=1e-7)
    np.testing.assert_allclose(ours["var"], together.var(0), rtol=1e-5)


@pytest.mark.parametrize(("size", "batch_size"), [(22, 6), (24, 6), (5, 5), (7, 1)])
def test_every_image_once_in_the_order_of_training(size, batch_size):
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
    with pytest.raises(ConfigError, match="for num_replicas=1, got 2"):
        check_has_statistics(config)
