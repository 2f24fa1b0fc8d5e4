import numpy as np
import pytest
from PIL import Image

from flaxres.data.resize import resize
from flaxres.errors import ConfigError, DatasetError
from flaxres.evaluation.test_crops import make_crop_protocol, resize_and_trim


def random_image(width, height, mode="RGB", seed=0):
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


@pytest.mark.parametrize(("width", "height"), [(15, 11), (11, 30), (12, 12)])
def test_ten_crops_are_slices_of_the_central_square(width, height):
    image = random_image(width, height)
    crops = make_crop_protocol("10-crop", (8, 8), short_side=11).crops(image)
    square = np.asarray(resize(image, 11))
    expected = [
        *(square[:8, :8], square[:8, 3:], square[3:, :8], square[3:, 3:]),
        square[1:9, 1:9],  # of 3 pixels that are cut off, one is on the upper left
    ]
    np.testing.assert_array_equal(np.stack(crops), np.stack(expected))


def test_crops_of_an_image_that_is_not_resized():
    image = random_image(20, 10)
    pixels = np.asarray(image)[:, 5:15]
    crops = make_crop_protocol("10-crop", (8, 8), short_side=10).crops(image)
    np.testing.assert_array_equal(crops[1], pixels[:8, 2:])
    np.testing.assert_array_equal(
        make_crop_protocol("center", (8, 6), short_side=10).crops(image)[0], pixels[1:9, 2:8]
    )


def test_gray_images_have_a_channel_axis():
    crops = make_crop_protocol("center", (8, 8)).crops(random_image(9, 9, "L"))
    assert [crop.shape for crop in crops] == [(8, 8, 1)]


def test_default_short_sides_follow_the_paper():
    assert make_crop_protocol("10-crop", (224, 224)).short_sides == (256,)
    assert make_crop_protocol("center", (32, 32)).short_sides == (37,)  # 36.6
    assert make_crop_protocol("multi-scale", (224, 224)).short_sides == (224, 256, 384, 480, 640)
    assert make_crop_protocol("multi-scale", (32, 32)).short_sides == (32, 37, 55, 69, 91)


def test_number_of_crops_and_mirror_images():
    protocols = [make_crop_protocol(name, (8, 8)) for name in ("split", "center", "10-crop")]
    assert [(p.num_crops, p.mirror) for p in protocols] == [(1, False), (1, False), (5, True)]
    multi_scale = make_crop_protocol("multi-scale", (8, 8), scales=[8, 12, 16])
    image = random_image(9, 8)
    assert (multi_scale.num_crops, multi_scale.mirror) == (3, True)
    assert len(multi_scale.crops(image)) == 3


@pytest.mark.parametrize(
    ("width", "height", "kept"),
    [(224, 224, 224), (300, 224, 288), (224, 319, 288), (447, 224, 416), (900, 224, 448)],
)
def test_the_ends_of_the_long_side_are_trimmed(width, height, kept):
    image = random_image(width, height)
    pixels, start = np.asarray(image), (max(width, height) - kept) // 2
    middle = slice(start, start + kept)
    expected = pixels[:, middle] if width > height else pixels[middle]
    np.testing.assert_array_equal(np.asarray(resize_and_trim(image, 224)), expected)


def test_trimmed_images_have_few_shapes():
    rng = np.random.default_rng(1)
    images = (random_image(*rng.integers(3, 60, 2)) for _ in range(300))
    shapes = {resize_and_trim(image, 21).size for image in images}
    assert len(shapes) <= 15
    assert {min(shape) for shape in shapes} == {21}
    assert {max(shape) % 3 for shape in shapes} == {0}  # sevenths of 21
    assert max(map(max, shapes)) == 42


def test_extreme_sizes():
    protocol = make_crop_protocol("multi-scale", (8, 8), scales=[8, 21])
    assert protocol.extreme_sizes() == [(8, 8), (8, 16), (21, 21), (21, 42)]
    assert resize_and_trim(random_image(90, 9), 8).size == (16, 8)
    assert resize_and_trim(random_image(8, 15), 8).size == (
        8,
        14,
    )  # allowed: 8, 9, 10, 11, 12, 13, 14, 16


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("9-crop", {}, "one of split, center, 10-crop, multi-scale, got '9-crop'"),
        ("split", {"short_side": 9}, "--short_side applies to --test_crops=center and 10-crop"),
        (
            "10-crop",
            {"short_side": 7},
            "short_side must be at least 8, the pixels of a crop, got 7",
        ),
        ("center", {"scales": [9]}, "--scales applies to --test_crops=multi-scale, got center"),
        ("multi-scale", {"scales": [9, 0]}, "at least 1, got 9, 0"),
        ("multi-scale", {"scales": [9, 9]}, "different numbers of pixels"),
        ("multi-scale", {"scales": [9, 10**5]}, "scales must be at most 9,459 pixels, got 100,000"),
        ("10-crop", {"short_side": 9_460}, "short_side must be at most 9,459 pixels, got 9,460"),
        ("center", {"short_side": -1}, "short_side must be at least 8"),
    ],
)
def test_invalid_protocols(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make_crop_protocol(name, (8, 8), **options)


def test_the_pixels_of_all_crops_of_an_image():
    for name, options in {"10-crop": {}, "center": {}, "multi-scale": {"scales": [8, 9]}}.items():
        protocol = make_crop_protocol(name, (8, 8), **options)
        crops = protocol.crops(random_image(60, 11))
        assert protocol.max_pixels == sum(crop.size // 3 for crop in crops)
        assert not any(map(np.shares_memory, crops, crops[1:]))  # nor with the whole image


def test_a_split_with_images_of_another_size():
    with pytest.raises(
        DatasetError, match="has 9 x 8 pixels, but the model's input images have 8 x 8"
    ):
        make_crop_protocol("split", (8, 8)).crops(random_image(8, 9))
    image = random_image(20, 9)
    crops = make_crop_protocol("split", (8, 8), split_short_side=10).crops(image)
    np.testing.assert_array_equal(crops[0], np.asarray(resize(image, 8, 10)))
