import jax
import jax.numpy as jnp
import numpy as np

from flaxres.data.augment import augment, normalise, random_crop, random_flip


def test_normalise_subtracts_the_mean_image_and_divides_by_nothing_else():
    images = np.array([[[[0], [255]]], [[[51], [102]]]], np.uint8)
    mean = jnp.array([[[0.1], [0.5]]])
    expected = np.array([[[[-0.1], [0.5]]], [[[0.1], [-0.1]]]])
    np.testing.assert_allclose(normalise(jnp.asarray(images), mean), expected, atol=1e-6)


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
