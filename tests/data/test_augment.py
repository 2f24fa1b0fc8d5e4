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
from flaxres.platforms import tracing_for


def test_normalize_subtracts_the_mean_image_and_does_not_divide_by_a_deviation():
    images = np.array([[[[0], [255]]], [[[51], [102]]]], np.uint8)
    mean = jnp.array([[[0.1], [0.5]]])
    expected = np.array([[[[-0.1], [0.5]]], [[[0.1], [-0.1]]]])
    np.testing.assert_allclose(normalize(jnp.asarray(images), mean), expected, atol=1e-6)


def numbered_images(n, height, width):
    """Returns images whose pixels are numbered from 1, so a crop shows where it was taken."""
    image = 1 + jnp.arange(height * width, dtype=jnp.float32).reshape(height, width, 1)
    return jnp.broadcast_to(image, (n, height, width, 1))


def test_crop_offsets_cover_0_to_8_evenly():
    n, pad, size = 8_100, 4, 9
    crops = np.asarray(random_crop(jax.random.key(0), numbered_images(n, size, size), pad))[..., 0]
    # At every offset the center pixel of a crop lies in the image, not in the padding.
    center = crops[:, size // 2, size // 2].astype(int) - 1
    offsets = np.stack([center // size, center % size], axis=1)
    assert set(offsets[:, 0]) == set(offsets[:, 1]) == set(range(9))
    counts = np.bincount(offsets[:, 0] * 9 + offsets[:, 1], minlength=81)
    assert ((counts - 100) ** 2 / 100).sum() < 124.8  # 0.999 quantile, 80 degrees of freedom
    padded = np.pad(np.asarray(numbered_images(1, size, size))[0, :, :, 0], pad)
    for crop, (row, column) in zip(crops[:200], offsets[:200], strict=True):
        np.testing.assert_array_equal(crop, padded[row : row + size, column : column + size])


@pytest.mark.parametrize(("pad", "dtype"), [(4, "float32"), (2, "bfloat16"), (1, "float32")])
def test_crops_by_selections_on_a_tpu_equal_slices_bit_for_bit(pad, dtype):
    images = jax.random.normal(jax.random.key(1), (300, 7, 9, 3), dtype)
    key = jax.random.key(2)
    with tracing_for("tpu"):
        jaxpr = str(jax.make_jaxpr(lambda key: random_crop(key, images, pad))(key))
        crops = random_crop(key, images, pad)
    assert "gather" not in jaxpr
    assert "dynamic_slice" not in jaxpr
    np.testing.assert_array_equal(crops, random_crop(key, images, pad))


def test_flip_flips_half_of_the_images():
    images = numbered_images(4_000, 2, 3)
    flipped = np.asarray(random_flip(jax.random.key(0), images))
    is_flipped = np.array([np.array_equal(image, images[0, :, ::-1]) for image in flipped])
    is_same = np.array([np.array_equal(image, images[0]) for image in flipped])
    assert (is_flipped ^ is_same).all()
    assert abs(is_flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(4_000)


def test_augment_can_be_switched_off():
    images = numbered_images(5, 4, 4)
    np.testing.assert_array_equal(augment(jax.random.key(0), images, pad=0, flip=False), images)


def test_crop_and_flip_are_independent():
    images = numbered_images(2_000, 5, 5)
    augmented = np.asarray(augment(jax.random.key(1), images, pad=1, flip=True))[..., 0]
    center = augmented[:, 2, 2].astype(int) - 1
    row = augmented[:, 2, 1:4]
    flipped = row[:, 0] > row[:, 2]
    flipped[(row == 0).any(axis=1)] = False
    for offset in np.unique(center // 5):
        flipped_fraction = flipped[center // 5 == offset].mean()
        assert abs(flipped_fraction - 0.5) < 0.12


def color_shifts(n, color=0.1, key=0):
    """Returns what `pca_color_augmentation` adds to each of n images, and the options.

    The shifts are float64 (n, 3).
    """
    options = default_config().augment
    options.color = color
    images = jax.random.uniform(jax.random.key(1), (n, 2, 3, 3))
    shifted = pca_color_augmentation(jax.random.key(key), images, options)
    added = np.float64(shifted) - np.float64(images)
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1], added.shape), atol=1e-6)
    return added[:, 0, 0], options


def test_color_shifts_match_the_formula():
    shifts, options = color_shifts(4)
    a = 0.1 * np.asarray(jax.random.normal(jax.random.key(0), (4, 3)))
    values = options.color_eigenvalues
    p = np.reshape(options.color_eigenvectors, (3, 3))
    for i in range(4):
        expected = sum(a[i, j] * values[j] * p[j] for j in range(3))
        np.testing.assert_allclose(shifts[i], expected, atol=1e-6)


def test_color_shifts_have_the_covariance_of_the_paper():
    # Krizhevsky 2012, section 4.1: P diag(l) a, with a of standard deviation 0.1.
    shifts, options = color_shifts(20_000)
    p = np.reshape(options.color_eigenvectors, (3, 3)).T  # one eigenvector per column
    np.testing.assert_allclose(p.T @ p, np.eye(3), atol=2e-3)  # printed with four digits
    expected = p @ np.diag((0.1 * np.array(options.color_eigenvalues)) ** 2) @ p.T
    np.testing.assert_allclose(np.cov(shifts.T), expected, atol=0.03 * expected.max())
    np.testing.assert_allclose(shifts.mean(0), 0, atol=4 * np.sqrt(expected.max() / 20_000))


def test_color_does_not_depend_on_the_number_of_devices():
    options = default_config().augment
    options.color = 0.1
    images = jax.random.uniform(jax.random.key(1), (6, 2, 2, 3))
    key = jax.random.key(3)
    unsharded = pca_color_augmentation(key, images, options)
    shards = images.reshape(3, 2, 2, 2, 3)
    sharded = jax.vmap(
        lambda shard: pca_color_augmentation(key, shard, options, "data"), axis_name="data"
    )(shards)
    np.testing.assert_array_equal(sharded.reshape(images.shape), unsharded)


@pytest.mark.parametrize(("channels", "message"), [(1, "1 channel$"), (4, "4 channels$")])
def test_color_needs_rgb_images(channels, message):
    options = default_config().augment
    options.color = 0.1
    with pytest.raises(ConfigError, match=f"augment.color must be 0 .*, got 0.1 with {message}"):
        pca_color_augmentation(jax.random.key(0), jnp.zeros((2, 4, 4, channels)), options)
