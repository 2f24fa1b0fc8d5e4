import io
import pickle
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flaxres.data.decode import MAX_SCANS, BrokenImageError, decode
from tests.data.pngs import GRAY, SIGNATURE, chunk

RNG = np.random.default_rng(0)


def encode(image, image_format, **options):
    data = io.BytesIO()
    image.save(data, image_format, **options)
    return data.getvalue()


def noise(height=20, width=30, channels=3):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def test_color_and_gray_images_are_converted_to_the_given_channels():
    pixels = noise()
    png = encode(Image.fromarray(pixels), "PNG")
    np.testing.assert_array_equal(np.asarray(decode(png, "a")), pixels)
    gray = noise(channels=1)
    png = encode(Image.fromarray(gray), "PNG")
    np.testing.assert_array_equal(np.asarray(decode(png, "a")), np.stack([gray] * 3, -1))
    np.testing.assert_array_equal(np.asarray(decode(png, "a", channels=1)), gray)


def test_the_upper_eight_of_sixteen_bits_are_kept():
    upper = noise(channels=1)
    sixteen_bits = upper.astype(np.uint16) * 256 + 77
    png = encode(Image.fromarray(sixteen_bits), "PNG")
    np.testing.assert_array_equal(np.asarray(decode(png, "a", channels=1)), upper)
    np.testing.assert_array_equal(np.asarray(decode(png, "a"))[..., 1], upper)


def test_cmyk_is_converted_to_rgb():
    jpeg = encode(Image.new("CMYK", (30, 20), (0, 255, 255, 0)), "JPEG")
    image = decode(jpeg, "a")
    assert image.size == (30, 20)
    red, green, blue = np.asarray(image)[10, 10]
    assert red > 240
    assert max(green, blue) < 20


def test_transparent_pixels_are_blended_with_black():
    pixels = noise(channels=4)
    pixels[..., 3] = 255
    pixels[:5, :, 3] = 0
    pixels[5:10, :, 3] = 128
    png = encode(Image.fromarray(pixels), "PNG")
    decoded = np.asarray(decode(png, "a")).astype(int)
    alpha = pixels[..., 3:] / 255
    np.testing.assert_allclose(decoded, alpha * pixels[..., :3], atol=1)
    np.testing.assert_array_equal(np.asarray(decode(png, "a", channels=4)), pixels)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 255, 255, 0, 200, 0])
    png = encode(palette, "PNG", transparency=1)
    assert np.asarray(decode(png, "a")).max() == 0


def jpeg_of_flat_color(mode, color, quality=100):
    """Returns a JPEG of 8 x 8 pixels, whose only coefficients are the mean values."""
    return encode(Image.new(mode, (8, 8), color), "JPEG", quality=quality)


def test_modes_of_jpeg():
    """Colors of CMYK are (255 - C) (255 - K) / 255, and so on."""
    adobe = jpeg_of_flat_color("CMYK", (51, 102, 204, 85))
    cases = {
        "gray": (jpeg_of_flat_color("L", 77), (77, 77, 77)),
        "RGB": (jpeg_of_flat_color("RGB", (200, 100, 50)), (200, 100, 50)),
        "CMYK": (adobe, (204 * 170 / 255, 153 * 170 / 255, 51 * 170 / 255)),
    }
    # With transform 2 the same samples are YCCK. C = 100 is stored as Y = 155, and M = Y = 127 as
    # neutral colors, so that the converted C, M and Y are 155 before they are subtracted from 255.
    ycck = jpeg_of_flat_color("CMYK", (100, 127, 127, 0))
    start = ycck.index(b"Adobe")
    assert ycck[start + 11] == 0
    cases["YCCK"] = (ycck[: start + 11] + b"\2" + ycck[start + 12 :], (100, 100, 100))
    for name, (file, color) in cases.items():
        pixel = np.asarray(decode(file, name))[4, 4]
        np.testing.assert_allclose(pixel, color, atol=2, err_msg=name)


def test_gif_and_bmp():
    pixels = noise()
    np.testing.assert_array_equal(
        np.asarray(decode(encode(Image.fromarray(pixels), "BMP"), "a")), pixels
    )
    palette = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3), "P")
    colors = RNG.integers(0, 256, (6, 3), dtype=np.uint8)
    palette.putpalette(colors.tobytes())
    expected = colors.reshape(2, 3, 3)
    np.testing.assert_array_equal(np.asarray(decode(encode(palette, "GIF"), "a")), expected)
    gif = encode(palette, "GIF", transparency=4)
    assert list(np.asarray(decode(gif, "a"))[1, 1]) == [0, 0, 0]
    np.testing.assert_array_equal(np.asarray(decode(gif, "a"))[0], expected[0])
    gray = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    gif = encode(gray, "GIF", transparency=4)
    np.testing.assert_array_equal(np.asarray(decode(gif, "a", 1)), [[0, 1, 2], [3, 0, 5]])
    frames = [Image.new("P", (3, 2), i) for i in range(3)]
    gif = encode(palette, "GIF", save_all=True, append_images=frames)
    np.testing.assert_array_equal(np.asarray(decode(gif, "a")), expected)  # the first frame


@pytest.mark.parametrize("image_format", ["TIFF", "WEBP", "PPM", "ICO", "TGA", "JPEG2000"])
def test_other_formats_are_not_decoded(image_format):
    data = encode(Image.new("RGB", (16, 16), (9, 9, 9)), image_format)
    with pytest.raises(BrokenImageError) as caught:
        decode(data, "photo.jpg")
    assert str(caught.value) == (
        "photo.jpg cannot be decoded (not a file of the formats JPEG, PNG, GIF, BMP); remove it, "
        "replace it, or skip such images with --config.dataset.broken_images=skip"
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation(orientation):
    """EXIF 2.32, section 4.6.4: where the first row and column of the file are to be shown."""
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    shown = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: stored[::-1].T,
        7: stored[::-1, ::-1].T,
        8: stored.T[::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encode(Image.fromarray(stored), "PNG", exif=exif.tobytes())
    np.testing.assert_array_equal(np.asarray(decode(file, "a", 1)), shown)


@pytest.mark.parametrize(("orientation", "quarter_turns"), [(3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(orientation, quarter_turns):
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg = encode(Image.fromarray(pixels), "JPEG", exif=exif.tobytes(), quality=95)
    decoded = np.asarray(decode(jpeg, "a")).astype(int)
    expected = np.rot90(pixels, quarter_turns).astype(int)
    assert decoded.shape == expected.shape
    assert np.abs(decoded - expected).max() < 30


def test_broken_images_are_named_in_one_line():
    jpeg = encode(Image.fromarray(noise(64, 64)), "JPEG")
    corrupt = b"\x00" * 40 + jpeg[40:]
    for data, reason in (
        (b"", "is empty"),
        (jpeg[: len(jpeg) // 2], "cannot be decoded"),
        (corrupt, "cannot be decoded"),
        (b"not an image", "cannot be decoded"),
    ):
        with pytest.raises(BrokenImageError) as caught:
            decode(data, "folder/cat.jpg")
        message = str(caught.value)
        assert message.startswith("folder/cat.jpg ")
        assert reason in message
        assert "\n" not in message


@pytest.mark.parametrize(
    ("height", "width", "reason"),
    [
        (10_000, 10_000, "it has 10,000 x 10,000 pixels; at most 65,535 a side and 89,478,485 in"),
        (1, 65_536, "it has 1 x 65,536 pixels; at most 65,535 a side"),
        (70_000, 1, "it has 70,000 x 1 pixels; at most 65,535 a side"),
        (20_000, 20_000, "it has more than 89,478,485 pixels"),
        (2**31 - 1, 2**31 - 1, "it has more than 89,478,485 pixels"),
    ],
)
def test_images_too_large_for_memory_are_errors(height, width, reason):
    header = struct.pack(">IIBBBBB", width, height, 8, GRAY, 0, 0, 0)
    file = SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND")
    with pytest.raises(BrokenImageError, match=re.escape(reason)):
        decode(file, "a")


def test_scans_without_end_are_refused():
    """119 bytes are one more scan of the 81 million pixels of a single color."""
    file = encode(Image.new("L", (64, 64), 7), "JPEG", progressive=True)
    start = file.rindex(b"\xff\xda")
    for count, is_allowed in ((MAX_SCANS - 10, True), (MAX_SCANS, False)):
        many = file[:-2] + file[start:-2] * count + file[-2:]
        if is_allowed:
            assert decode(many, "a", 1).getextrema() == (7, 7)
            continue
        first = many.index(b"\xff\xda")
        for scans in (many, many[:first] + b"junk" + many[first:], many[:-2]):
            with pytest.raises(BrokenImageError, match=r"it has 506 scans; at most 500 are allow"):
                decode(scans, "a")
    # What follows the image does not count, such as the film of a moving photo.
    decode(file + b"\xff\xda" * 1_000, "a")


def test_the_advice_about_data_sets_is_apart_from_the_problem():
    error = pickle.loads(pickle.dumps(BrokenImageError("a(1); b.jpg is empty")))
    assert error.problem == "a(1); b.jpg is empty"
    assert str(error).startswith("a(1); b.jpg is empty; remove it, replace it, or skip")


def damaged(file, data):
    """Draws a copy of a file with changed, removed or repeated bytes."""
    content = bytearray(file)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = start + data.draw(st.integers(0, 8))
        content[start:end] = data.draw(st.binary(max_size=8))
    return bytes(content)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_damaged_bytes_raise_only_broken_image_errors(data):
    file = data.draw(st.sampled_from(FUZZED))
    channels = data.draw(st.sampled_from([1, 3, 4]))
    content = (
        damaged(file, data) if data.draw(st.booleans()) else file[: data.draw(st.integers(0, 99))]
    )
    try:
        image = decode(content, "a", channels)
    except BrokenImageError:
        return
    assert len(image.getbands()) == channels
    assert image.tobytes()


def fuzzed_files():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    small = Image.fromarray(noise(5, 7))
    palette = small.quantize(4)
    return [
        encode(small, "PNG", exif=exif),
        encode(palette, "PNG", transparency=bytes((0, 128))),
        encode(Image.fromarray(noise(5, 7, 1)), "PNG", transparency=3),
        encode(small, "JPEG", exif=exif, icc_profile=b"profile" * 9, comment=b"comment"),
        encode(small, "JPEG", progressive=True),
        encode(small.convert("CMYK"), "JPEG"),
        encode(palette, "GIF", transparency=2),
        encode(small, "BMP"),
    ]


FUZZED = fuzzed_files()
