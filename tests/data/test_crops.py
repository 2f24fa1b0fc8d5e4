import numpy as np
import pytest
from PIL import Image

from flaxres.data.crops import Cropper, random_resized_crop, random_scale_crop
from flaxres.data.resize import resize

RNG = np.random.default_rng(0)


def gradient(width, height):
    """Returns an image whose red increases from left to right, and green from top to bottom."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 0 * x], -1).round().astype(np.uint8))


def draw_boxes(draw, image, cropper, count=2000):
    rng = np.random.default_rng(1)
    return np.array([draw(rng, image.size, cropper) for _ in range(count)])


def test_scale_draws_short_sides_uniformly_and_crops_anywhere():
    cropper = Cropper(size=24, crop="scale", short_side=(24, 48))
    image = gradient(90, 60)
    left, top, right, bottom = draw_boxes(random_scale_crop, image, cropper).T
    assert left.min() >= 0
    assert top.min() >= 0
    assert right.max() <= 90
    assert bottom.max() <= 60
    # 24 pixels of the scaled image are (bottom - top) of 60 pixels of the original.
    short_sides = np.round(24 * 60 / (bottom - top))
    assert (short_sides.min(), short_sides.max()) == (24, 48)
    counts = np.bincount(short_sides.astype(int))[24:]
    assert len(counts) == 25
    assert counts.min() > 0.5 * 2000 / 25
    np.testing.assert_allclose((right - left) / (bottom - top), 1, atol=0.03)
    center = (left + right) / 2
    assert abs(center.mean() - 45) < 2
    assert center.std() > 10


def test_scale_is_a_crop_of_the_scaled_image():
    """One resize with a box equals scaling the whole image and cropping, except for rounding."""
    image = Image.fromarray(RNG.integers(0, 256, (60, 90, 3), dtype=np.uint8))
    cropper = Cropper(size=24, crop="scale", short_side=(40, 40))
    left, top, right, bottom = random_scale_crop(np.random.default_rng(3), image.size, cropper)
    scaled = image.resize((60, 40), Image.Resampling.BILINEAR)
    x, y = round(left * 60 / 90), round(top * 40 / 60)
    expected = np.asarray(scaled.crop((x, y, x + 24, y + 24))).astype(int)
    box = (left, top, right, bottom)
    crop = np.asarray(image.resize((24, 24), Image.Resampling.BILINEAR, box)).astype(int)
    assert np.abs(crop - expected).max() <= 1


def test_area_and_aspect_are_in_their_ranges():
    cropper = Cropper(size=24, crop="random-resized")
    left, top, right, bottom = draw_boxes(random_resized_crop, gradient(120, 100), cropper).T
    width, height = right - left, bottom - top
    area = width * height / (120 * 100)
    assert 0.07 < area.min() < 0.1
    assert 0.85 < area.max() <= 1
    assert 0.72 < (width / height).min() < 0.78
    assert 1.28 < (width / height).max() < 1.37
    assert left.min() >= 0
    assert bottom.max() <= 100
    # Areas are drawn uniformly, a quarter in the lowest quarter of the range. Large ones fit less
    # often, so the observed fraction is a little higher.
    small_fraction = (area < 0.08 + 0.92 / 4).mean()
    assert 0.23 < small_fraction < 0.35


def test_area_falls_back_to_the_largest_centered_crop():
    cropper = Cropper(size=24, crop="random-resized", area=(0.9, 1.0))
    left, top, right, bottom = random_resized_crop(np.random.default_rng(0), (300, 30), cropper)
    assert (right - left, bottom - top) == (40, 30)
    assert (left, top) == (130, 0)


@pytest.mark.parametrize("crop", ["scale", "random-resized"])
def test_crops_depend_only_on_seed_and_position(crop):
    image = gradient(90, 60)
    cropper = Cropper(size=24, crop=crop, short_side=(24, 48), seed=1)
    other = Cropper(size=24, crop=crop, short_side=(24, 48), seed=2)
    first = np.asarray(cropper.train_crop(image.size, 2**40).apply(image))
    assert first.shape == (24, 24, 3)
    np.testing.assert_array_equal(
        first, np.asarray(cropper.train_crop(image.size, 2**40).apply(image))
    )
    assert (first != np.asarray(cropper.train_crop(image.size, 2**40 + 1).apply(image))).any()
    assert (first != np.asarray(other.train_crop(image.size, 2**40).apply(image))).any()
    assert (first != np.asarray(cropper.train_crop(image.size, 0).apply(image))).any()


def test_pad_does_not_crop_on_the_host():
    image = gradient(40, 30)
    for position in (0, 1):
        crop = np.asarray(Cropper(size=24).train_crop(image.size, position).apply(image))
        np.testing.assert_array_equal(crop, np.asarray(resize(image, 24)))
    unchanged = Cropper(size=0).train_crop(image.size, 0).apply(image)
    np.testing.assert_array_equal(np.asarray(unchanged), np.asarray(image))


def test_evaluation_takes_the_center():
    image = gradient(90, 60)
    cropper = Cropper(size=24, eval_short_side=30, crop="random-resized")
    crop = np.asarray(cropper.eval_crop(image.size).apply(image))
    assert crop.shape == (24, 24, 3)
    assert abs(crop[..., 0].mean() - 127.5) < 4  # half a pixel of the gradient
    # The crop covers 24 of 45 pixels of the width, and 24 of 30 pixels of the height.
    assert np.ptp(crop[12, :, 0].astype(int)) == pytest.approx(255 * 24 / 45, abs=8)
    assert np.ptp(crop[:, 12, 1].astype(int)) == pytest.approx(255 * 24 / 30, abs=12)
