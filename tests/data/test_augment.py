import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.config import default_config
from flaxres.data.augment import (
    augment,
    normalize,
    pca_color_augmentation,
    random_crop,
    random_flip,
)
from flaxres.errors import ConfigError


def test_normalise_subtracts_the_mean_image_and_divides_by_nothing_else():
    images = np.array([[[[0], [255]]], [[[51], [102]]]], np.uint8)
    mean = jnp.array([[[0.1], [0.5]]])
    expected = np.array([[[[-0.1], [0.5]]], [[[0.1], [-0.1]]]])
    np.testing.assert_allclose(normalize(jnp.asarray(images), mean), expected, atol=1e-6)


def numbered(n, height, width):
    """Images whose pixels are numbered from 1, so that a crop shows where it came from."""
    image = 1 + jnp.arange(height * width, dtype=jnp.float32).reshape(height, width, 1)
    return jnp.broadcast_to(image, (n, height, width, 1))


def test_crop_offsets_cover_0_to_8_evenly():
    n, pad, size = 8_100, 4, 9
    crops = np.asarray(random_crop(jax.random.key(0), numbered(n, size, size), pad))[..., 0]
    # At every offset the middle pixel of a crop lies in the image, at most 4 pixels off its middle.
    middle = crops[:, size // 2, size // 2].astype(int) - 1
    offsets = np.stack([middle // size, middle % size], axis=1)
    assert set(offsets[:, 0]) == set(offsets[:, 1]) == set(range(9))
    counts = np.bincount(offsets[:, 0] * 9 + offsets[:, 1], minlength=81)
    assert ((counts - 100) ** 2 / 100).sum() < 124.8  # 0.999 quantile, 80 degrees of freedom
    padded = np.pad(np.asarray(numbered(1, size, size))[0, :, :, 0], pad)
    for crop, (row, column) in zip(crops[:200], offsets[:200], strict=True):
        np.testing.assert_array_equal(crop, padded[row : row + size, column : column + size])


def test_flip_half_of_the_images():
    images = numbered(4_000, 2, 3)
    flipped = np.asarray(random_flip(jax.random.key(0), images))
    is_flipped = np.array([np.array_equal(image, images[0, :, ::-1]) for image in flipped])
    is_same = np.array([np.array_equal(image, images[0]) for image in flipped])
    assert (is_flipped ^ is_same).all()
    assert abs(is_flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(4_000)


def test_augment_can_be_switched_off():
    images = numbered(5, 4, 4)
    np.testing.assert_array_equal(augment(jax.random.key(0), images, pad=0, flip=False), images)


def test_crop_and_flip_are_independent():
    images = numbered(2_000, 5, 5)
    augmented = np.asarray(augment(jax.random.key(1), images, pad=1, flip=True))[..., 0]
    middle = augmented[:, 2, 2].astype(int) - 1
    row = augmented[:, 2, 1:4]
    flipped = row[:, 0] > row[:, 2]
    flipped[(row == 0).any(axis=1)] = False
    for offset in np.unique(middle // 5):
        share = flipped[middle // 5 == offset].mean()
        assert abs(share - 0.5) < 0.12


def shifts(n, color=0.1, key=0):
    """What `pca_color_augmentation` adds to each of n images, float64 (n, 3)."""
    options = default_config().augment
    options.color = color
    images = jax.random.uniform(jax.random.key(1), (n, 2, 3, 3))
    shifted = pca_color_augmentation(jax.random.key(key), images, options)
    added = np.float64(shifted) - np.float64(images)
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1], added.shape), atol=1e-6)
    return added[:, 0, 0], options


def test_colour_by_hand():
    found, options = shifts(4)
    a = 0.1 * np.asarray(jax.random.normal(jax.random.key(0), (4, 3)))
    values = options.color_eigenvalues
    p = np.reshape(options.color_eigenvectors, (3, 3))
    for i in range(4):
        expected = sum(a[i, j] * values[j] * p[j] for j in range(3))
        np.testing.assert_allclose(found[i], expected, atol=1e-6)


def test_colour_shifts_have_the_covariance_of_the_paper():
    # Krizhevsky 2012, section 4.1: P diag(l) a with a of deviation 0.1, in all 3 directions.
    found, options = shifts(20_000)
    p = np.reshape(options.color_eigenvectors, (3, 3)).T  # a column each
    np.testing.assert_allclose(p.T @ p, np.eye(3), atol=2e-3)  # as printed, to four digits
    expected = p @ np.diag((0.1 * np.array(options.color_eigenvalues)) ** 2) @ p.T
    np.testing.assert_allclose(np.cov(found.T), expected, atol=0.03 * expected.max())
    np.testing.assert_allclose(found.mean(0), 0, atol=4 * np.sqrt(expected.max() / 20_000))


def test_colour_does_not_depend_on_the_number_of_devices():
    options = default_config().augment
    options.color = 0.1
    images = jax.random.uniform(jax.random.key(1), (6, 2, 2, 3))
    key = jax.random.key(3)
    alone = pca_color_augmentation(key, images, options)
    parts = images.reshape(3, 2, 2, 2, 3)
    shared = jax.vmap(
        lambda own: pca_color_augmentation(key, own, options, "data"), axis_name="data"
    )(parts)
    np.testing.assert_array_equal(shared.reshape(images.shape), alone)


@pytest.mark.parametrize(("channels", "said"), [(1, "1 channel$"), (4, "4 channels$")])
def test_colour_of_images_that_are_not_rgb(channels, said):
    options = default_config().augment
    options.color = 0.1
    with pytest.raises(ConfigError, match=f"augment.color must be 0 .*, got 0.1 with {said}"):
        pca_color_augmentation(jax.random.key(0), jnp.zeros((2, 4, 4, channels)), options)
