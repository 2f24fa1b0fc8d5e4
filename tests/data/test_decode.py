import io

import numpy as np
import pytest
from PIL import Image

from flaxres.data.decode import BrokenImageError, decode

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


def test_an_image_too_large_for_memory_is_an_error(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BrokenImageError, match="cannot be decoded"):
        decode(encode(Image.fromarray(noise()), "PNG"), "a")
