import io

import numpy as np
import pytest
from PIL import Image

from flaxres.data import jpeg
from flaxres.data.crops import Cropper
from flaxres.data.decode import EncodedImage
from flaxres.data.folder import open_folder
from flaxres.data.jpeg import crop_jpeg, find_library, load_cropper
from flaxres.data.resize import Crop
from flaxres.data.sampler import EpochSampler
from flaxres.data.shared_memory import DecodedImages
from flaxres.data.stream_schedule import DecodeTask
from flaxres.data.task_decoder import Decoder
from tests.data.jpegs import write_folder

LIBRARY = find_library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="needs a C++ compiler and a cache")


def smooth_image(rng, width, height, mode="RGB"):
    """Returns an image with large and small structures."""
    small = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((width, height))).astype(int)
    pixels = pixels + rng.integers(-20, 21, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert(mode)


def encode(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def decoded(data, crop, channels=3):
    return crop_jpeg(EncodedImage(data, "a", channels), lambda size: crop, load_cropper(LIBRARY))


def expected(data, crop, channels=3):
    """Decodes the whole image with Pillow, then crops and resizes it."""
    pixels = np.asarray(crop.apply(EncodedImage(data, "a", channels).decode()))
    return pixels.reshape(*pixels.shape[:2], channels)


def lossless_file(height, width):
    """Returns a gray file with a lossless frame (SOF3), which has no AC table."""

    def segment(marker, contents):
        return bytes((0xFF, marker)) + (len(contents) + 2).to_bytes(2, "big") + contents

    frame = b"\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big") + b"\x01\x01\x11\x00"
    return (
        b"\xff\xd8"
        + segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
        + segment(0xC3, frame)
        + segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\x00")  # one code, '0': no difference
        + segment(0xDA, b"\x01\x01\x00\x01\x00\x00")
        + bytes(height * width // 8)
        + b"\xff\xd9"
    )


def test_a_lossless_file_is_left_to_pillow():
    data, crop = lossless_file(30, 40), Crop((2.0, 3.0, 30.0, 25.0), (16, 16), (0, 0, 16, 16))
    assert decoded(data, crop, 1) is None
    assert expected(data, crop, 1).shape == (16, 16, 1)


def random_crop(rng, width, height):
    """Returns a crop with any box, size and window."""
    left, right = np.sort(rng.integers(0, width + 1, 2))
    top, bottom = np.sort(rng.integers(0, height + 1, 2))
    box = (left, top, max(right, left + 1), max(bottom, top + 1))
    if rng.random() < 0.5 and right > left and bottom > top:
        box = (left, top, right - 0.25, bottom - 0.6)
    scaled = tuple(map(int, rng.integers(1, 90, 2)))
    window = (0, 0, *scaled)
    if rng.random() < 0.5:
        x, y = (int(rng.integers(0, length)) for length in scaled)
        window = (x, y, int(rng.integers(x, scaled[0])) + 1, int(rng.integers(y, scaled[1])) + 1)
    return Crop(tuple(map(float, box)), scaled, window)


VARIANTS = (
    *({"subsampling": name} for name in ("4:4:4", "4:2:2", "4:2:0", "4:1:1")),
    *({"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 3}, {"quality": 100}),
    *({"quality": 3}, {"mode": "L"}, {"mode": "L", "progressive": True}),
)


@pytest.mark.parametrize("variant", VARIANTS)
def test_crops_are_those_of_pillow(variant):
    rng = np.random.default_rng(0)
    options = dict(variant)
    mode = options.pop("mode", "RGB")
    for _ in range(30):
        width, height = rng.integers(1, 130, 2)
        data = encode(smooth_image(rng, width, height, mode), **options)
        crop = random_crop(rng, width, height)
        for channels in (1, 3) if mode == "L" else (3,):
            pixels = decoded(data, crop, channels)
            np.testing.assert_array_equal(pixels, expected(data, crop, channels))


def test_a_large_photo_and_its_narrow_crops():
    """Crops at every place of MCUs of 16 x 16 pixels, and blocks without any coefficient of 0."""
    rng = np.random.default_rng(1)
    data = encode(smooth_image(rng, 500, 375), quality=90)
    noise = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    noisy = encode(Image.fromarray(noise), quality=100)
    for file, width, height in ((data, 500, 375), (noisy, 64, 48)):
        for start in range(40):
            box = (start % width, start, min(width, start + 9), min(height, start + 5))
            crop = Crop(tuple(map(float, box)), (7, 11), (0, 0, 7, 11))
            np.testing.assert_array_equal(decoded(file, crop), expected(file, crop))


def test_files_that_are_left_to_pillow():
    image = smooth_image(np.random.default_rng(2), 60, 40)
    crop = Crop((0.0, 0.0, 60.0, 40.0), (20, 20), (0, 0, 20, 20))
    good = encode(image)
    assert decoded(good, crop) is not None
    exif = Image.Exif()
    exif[0x0112] = 6
    png = io.BytesIO()
    image.save(png, "PNG")
    half = len(good) // 2
    for data in (
        *(b"", b"text", png.getvalue(), encode(image.convert("CMYK")), encode(image, exif=exif)),
        *(encode(image, keep_rgb=True), good[:-2], good[:-60], good[:200]),
        good[:half] + b"\xff\xd9" + good[half:],  # the end of the image in the middle
        good[:half] + b"\xff\xc4" + good[half:],  # another marker in the middle
        encode(image, progressive=True)[:-60],
        encode(image, restart_marker_blocks=2)[:-60],
    ):
        assert decoded(data, crop) is None
    assert decoded(good, crop, channels=1) is None
    assert decoded(good, crop, channels=4) is None


def test_damaged_codes_give_the_pixels_of_pillow_or_none():
    rng = np.random.default_rng(3)
    good = encode(smooth_image(rng, 90, 70), quality=75)
    start = good.index(b"\xff\xda") + 14
    crop = Crop((10.0, 5.0, 70.0, 61.0), (30, 30), (0, 0, 30, 30))
    results = []
    for _ in range(100):
        data = bytearray(good)
        data[int(rng.integers(start, len(good) - 2))] = int(rng.integers(0, 255))
        pixels = decoded(bytes(data), crop)
        if pixels is not None:
            np.testing.assert_array_equal(pixels, expected(bytes(data), crop))
        results.append(pixels is not None)
    assert any(results)
    assert not all(results)


def test_images_decoded_at_a_fraction_of_their_size():
    """libjpeg's means over 2 x 2 pixels are not Pillow's filter: at most 3% of 255 in the mean."""
    rng = np.random.default_rng(4)
    data = encode(smooth_image(rng, 400, 300), quality=90)
    cropper = Cropper(size=32, crop="random-resized", area=(0.3, 1.0), scales_jpeg=True)
    reductions = set()
    for position in range(20):
        crop = cropper.train_crop((400, 300), position)
        reductions.add(crop.reduction)
        exact = Cropper(size=32, crop="random-resized", area=(0.3, 1.0)).train_crop(
            (400, 300), position
        )
        assert exact.reduction == 1
        assert exact.box == crop.box
        difference = np.abs(decoded(data, crop).astype(int) - expected(data, exact))
        assert difference.mean() < 0.03 * 255
        assert difference.max() < 48
    assert reductions == {4, 8}


@pytest.mark.parametrize("crop", ["random-resized", "scale", "pad"])
def test_batches_are_those_of_pillow(tmp_path, crop):
    """For training and evaluation, at any position: a run may resume with another decoder."""
    sources = open_folder(write_folder(tmp_path, sides=(30, 60)), "train", "test")
    cropper = Cropper(size=24, eval_short_side=28, crop=crop, short_side=(24, 40), seed=3)
    batches = []
    for library in (LIBRARY, None):
        decoder = Decoder(
            {"train": sources.train, "test": sources.test},
            EpochSampler(45, 8, seed=3),
            cropper,
            (24, 24, 3),
            3,
            False,
            library,
        )
        batches.append([])
        for split, training in (("train", True), ("test", False)):
            out = DecodedImages.empty(20, (24, 24, 3))
            decoder(DecodeTask(split, training, np.arange(20)), out)
            batches[-1].append(out.images)
    np.testing.assert_array_equal(*batches)


def test_a_library_that_differs_is_not_used(monkeypatch, capsys):
    monkeypatch.setattr(jpeg, "ROWS_FIRST_VERSION", 10**9)  # as if Pillow changed its resizing
    find_library.cache_clear()
    try:
        assert find_library() is None
    finally:
        find_library.cache_clear()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("The decoder for crops of JPEG files differs from Pillow ")


def test_the_kernels_switch_disables_the_library(monkeypatch):
    monkeypatch.setenv("FLAXRES_CPU_KERNELS", "0")
    find_library.cache_clear()
    try:
        assert find_library() is None
    finally:
        find_library.cache_clear()
