import numpy as np
import pytest

from flaxres.data.sampler import EpochSampler, evaluation_batches


@pytest.mark.parametrize(("images", "batch"), [(12, 4), (10, 4), (7, 7), (1437, 128)])
def test_every_image_exactly_once_per_epoch(images, batch):
    sampler = EpochSampler(images, batch, seed=3)
    epochs = 4
    steps = -(-epochs * images // batch)
    visited = np.concatenate([sampler.indices(step)[0] for step in range(steps)])
    for epoch in range(epochs):
        epoch_images = visited[epoch * images : (epoch + 1) * images]
        np.testing.assert_array_equal(np.sort(epoch_images), np.arange(images))


def test_each_epoch_and_seed_has_a_new_order():
    first, second = EpochSampler(100, 100, 0).indices(0, 2)
    other = EpochSampler(100, 100, 1).indices(0)[0]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, np.arange(100))


def test_indices_depend_only_on_seed_and_step():
    sampler = EpochSampler(10, 4, seed=5)
    all_steps = np.concatenate([sampler.indices(step) for step in range(20)])
    for step in (17, 3, 0):
        np.testing.assert_array_equal(EpochSampler(10, 4, 5).indices(step)[0], all_steps[step])
    np.testing.assert_array_equal(EpochSampler(10, 4, 5).indices(2, 13), all_steps[2:15])
    assert all_steps.dtype == np.int32


def test_positions_are_uniform():
    """Over many epochs each image occurs equally often at each position."""
    epochs = 6_000
    positions = EpochSampler(5, 5, 0).indices(0, epochs)
    counts = np.array([np.bincount(positions[:, i], minlength=5) for i in range(5)])
    expected = epochs / 5
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 39.25  # 0.999 quantile at 16 degrees of freedom


@pytest.mark.parametrize(
    ("size", "batch_size", "num_devices", "shape"),
    [(10_000, 500, 8, (20, 504)), (10, 4, 1, (3, 4)), (3, 100, 4, (1, 4)), (8, 8, 8, (1, 8))],
)
def test_evaluation_uses_every_image_once(size, batch_size, num_devices, shape):
    rows = evaluation_batches(size, batch_size, num_devices)
    assert rows.shape == shape
    np.testing.assert_array_equal(np.sort(rows[rows >= 0]), np.arange(size))
