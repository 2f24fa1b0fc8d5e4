"""Random erasing and Cutout: rectangles, and torchvision's distribution of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.config import default_config
from flaxres.data.erasing import cutout_squares, erase, erased_rectangles
from tests.conftest import quick_jit

KEY = jax.random.key(0)


def make_options(**fields):
    options = default_config().augment
    options.update(fields)
    return options


def bounds(mask):
    """Returns (top, left, height, width) of the rectangle that a mask must consist of."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    assert mask.sum() == height * width
    return rows[0], columns[0], height, width


def erased(n=3_000, **fields):
    options = make_options(erasing_probability=1.0, **fields)
    shape = (n, 24, 32, 3)
    return np.asarray(quick_jit(lambda key: erased_rectangles(key, shape, options))(KEY))


def test_rectangles_have_the_distribution_of_torchvision():
    from tests.pretrained.torchvision_import import import_torchvision, torch

    import_torchvision()
    from torchvision.transforms import RandomErasing

    rectangles = np.array([bounds(mask) for mask in erased()])
    torch.manual_seed(0)
    image = torch.zeros(3, 24, 32)
    params = (
        RandomErasing.get_params(image, (0.02, 0.33), (0.3, 1 / 0.3), [0]) for _ in range(3000)
    )
    expected = np.array([drawn[:4] for drawn in params])
    for ours, theirs in zip(rectangles.T, expected.T, strict=True):
        error = np.hypot(ours.std(), theirs.std()) / np.sqrt(3_000)
        assert abs(ours.mean() - theirs.mean()) < 4 * error
        quantiles = np.linspace(0.05, 0.95, 10)
        np.testing.assert_allclose(
            np.quantile(ours, quantiles), np.quantile(theirs, quantiles), atol=1.01
        )


def test_areas_and_ratios_are_in_their_ranges():
    for mask in erased(500, erasing_area=(0.1, 0.2), erasing_aspect_ratio=(0.5, 1.0)):
        _, _, height, width = bounds(mask)
        # Sides are rounded to pixels.
        assert (height - 0.5) * (width - 0.5) <= 0.2 * 24 * 32
        assert (height + 0.5) * (width + 0.5) >= 0.1 * 24 * 32
        assert height - 0.5 <= width + 0.5


def test_an_image_that_no_rectangle_fits_stays_as_it_is():
    assert not erased(20, erasing_area=(1.0, 1.0), erasing_aspect_ratio=(0.9, 1.0)).any()


def test_images_are_erased_with_the_probability():
    images = jnp.ones((3_000, 8, 8, 1))
    options = make_options(erasing_probability=0.3)
    result = np.asarray(quick_jit(lambda: erase(KEY, images, options))())
    is_erased = (result == 0).any((1, 2, 3))
    assert abs(is_erased.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 3_000)
    assert erase(KEY, images, make_options()) is images


@pytest.mark.parametrize("size", [4, 5])
def test_the_center_of_a_cutout_is_any_pixel(size):
    squares = np.asarray(quick_jit(lambda: cutout_squares(KEY, (4_000, 7, 9, 3), size))())
    tops, lefts = np.mgrid[0:7, 0:9] - size // 2
    expected = np.zeros((7, 9))
    for top, left in zip(tops.ravel(), lefts.ravel(), strict=True):
        expected[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] += 1 / 63
    np.testing.assert_allclose(squares.mean(0), expected, atol=4 * 0.5 / np.sqrt(4_000))
    assert squares.sum((1, 2)).max() == size * size


def test_cutout_sets_pixels_to_the_mean_color():
    images = jax.random.normal(jax.random.key(0), (5, 8, 8, 3))
    result = np.asarray(quick_jit(lambda: erase(KEY, images, make_options(cutout=4)))())
    is_erased = (result == 0).all(-1)
    assert is_erased.any((1, 2)).all()
    np.testing.assert_array_equal(result[~is_erased], np.asarray(images)[~is_erased])


def test_erasing_does_not_depend_on_the_number_of_devices():
    options = make_options(erasing_probability=0.5, cutout=3)
    images = jax.random.normal(jax.random.key(1), (6, 8, 8, 1))
    on_device = jax.vmap(lambda shard: erase(KEY, shard, options, "data"), axis_name="data")
    shards = quick_jit(on_device)(images.reshape(3, 2, 8, 8, 1))
    whole = quick_jit(lambda: erase(KEY, images, options))()
    np.testing.assert_array_equal(shards.reshape(images.shape), whole)
