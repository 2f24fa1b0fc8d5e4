import resource

import numpy as np
import pytest
from PIL import Image

from flaxres.data import dataset_shape, load_dataset
from flaxres.data.resize import (
    image_to_array,
    resize,
    resize_arrays,
    resize_mean,
    resize_to_shape,
)
from flaxres.evaluation.test_crops import resize_and_trim
from tests.conftest import small_config, write_tfds


def random_image(width, height, mode="RGB", seed=0):
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def test_the_short_side_is_scaled_and_the_center_taken():
    columns = np.repeat(np.arange(0, 240, 10, dtype=np.uint8), 2)  # width 48, height 12
    image = Image.fromarray(np.tile(columns, (12, 1)))
    small = np.asarray(resize(image, 6))
    assert small.shape == (6, 6)
    # Scaled to a width of 24; each column is the mean of two equal ones. Columns 9 to 14 remain.
    center = np.arange(90, 150, 10)
    np.testing.assert_allclose(small, np.tile(center, (6, 1)), atol=1)


def test_a_line_of_pixels_is_resized_without_gigabytes():
    """Scaled as a whole, the image would have 224 x 13,440,000 pixels: 9 GB."""
    pixels = np.arange(60_000) // 235 % 256
    image = Image.fromarray(np.stack([pixels.astype(np.uint8)] * 3, axis=-1)[:, None])
    assert image.size == (1, 60_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outputs = [
        np.asarray(resize(image, 224)),
        resize_to_shape(image, (224, 200)),
        image_to_array(resize_and_trim(image, 224))[112:336],
    ]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 100 * 2**10  # KiB
    for output in outputs:
        assert (output == pixels[30_000]).all()  # a center of less than one pixel


@pytest.mark.parametrize(("width", "height"), [(13, 9), (9, 130), (700, 3)])
def test_crops_of_large_images_are_the_same_except_for_rounding(width, height, monkeypatch):
    image = random_image(width, height)
    expected = [
        resize_to_shape(image, (8, 8)),
        resize_to_shape(image, (8, 8), 11),
        resize_to_shape(image, (9, 6)),
        image_to_array(resize_and_trim(image, 14)),
    ]
    monkeypatch.setattr("flaxres.data.resize.MAX_PIXELS", 1)
    outputs = [
        resize_to_shape(image, (8, 8)),
        resize_to_shape(image, (8, 8), 11),
        resize_to_shape(image, (9, 6)),
        image_to_array(resize_and_trim(image, 14)),
    ]
    for output, known in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output.astype(int), known.astype(int), atol=1)


def test_images_that_have_the_size_are_unchanged():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_arrays(images, 8), images)
    gray = images[..., :1]
    assert resize_arrays(gray, 16).shape == (3, 16, 16, 1)
    uniform = np.full((1, 5, 9, 3), 77, np.uint8)
    np.testing.assert_array_equal(resize_arrays(uniform, 32), np.full((1, 32, 32, 3), 77))


def test_data_sets_are_resized_to_image_size(tmp_path):
    config = small_config().dataset
    config.image_size = 32
    assert dataset_shape(config) == ((32, 32, 1), 10)
    assert load_dataset(config).image_shape == (32, 32, 1)
    arrays = write_tfds(tmp_path)
    config.name, config.data_dir, config.image_size = "tiny", str(tmp_path), 4
    assert dataset_shape(config) == ((4, 4, 3), 4)
    dataset = load_dataset(config)
    images, labels = arrays["train"]
    np.testing.assert_array_equal(dataset.train.images, resize_arrays(images, 4))
    np.testing.assert_array_equal(dataset.train.labels, labels)


@pytest.mark.parametrize(("width", "height"), [(13, 9), (9, 13), (8, 8), (40, 7)])
def test_resize_to_a_square_shape_is_resize(width, height):
    image = random_image(width, height)
    np.testing.assert_array_equal(resize_to_shape(image, (8, 8)), np.asarray(resize(image, 8)))
    np.testing.assert_array_equal(
        resize_to_shape(image, (8, 8), 10), np.asarray(resize(image, 8, 10))
    )


def test_resize_to_another_shape_covers_it():
    image = random_image(5, 6)
    np.testing.assert_array_equal(resize_to_shape(image, (6, 5)), np.asarray(image))
    half = Image.new("RGB", (20, 10), (200, 0, 0))
    assert resize_to_shape(half, (6, 5)).shape == (6, 5, 3)
    assert (resize_to_shape(half, (6, 5)) == (200, 0, 0)).all()
    assert (resize_to_shape(random_image(10, 40, "L"), (6, 5)).shape) == (6, 5, 1)


def test_the_mean_image_is_stretched_to_other_sizes():
    mean = np.random.default_rng(0).random((8, 8, 3), np.float32)
    assert resize_mean(mean, (8, 8)) is mean
    stretched = resize_mean(mean, (16, 24))
    assert stretched.shape == (16, 24, 3)
    assert stretched.dtype == np.float32
    # Bilinear upsampling by 2: inner rows are means of neighbors with weights 3/4 and 1/4.
    rows = resize_mean(mean, (16, 8))
    np.testing.assert_allclose(rows[1], 0.75 * mean[0] + 0.25 * mean[1], rtol=1e-5)
    np.testing.assert_allclose(rows[2], 0.25 * mean[0] + 0.75 * mean[1], rtol=1e-5)
    flat = np.broadcast_to(
        np.float32([0.1, 0.5, 0.9]), (8, 8, 3)
    )  # as dataset.mean='channel' gives
    np.testing.assert_allclose(resize_mean(flat, (11, 9))[3, 4], [0.1, 0.5, 0.9], rtol=1e-6)
