"""Images whose metadata is damaged: PNG chunks and JPEG segments that pixels do not need."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from flaxres.data.decode import BrokenImageError, decode, has_damaged_metadata
from flaxres.data.image_metadata import without_metadata
from tests.data.pngs import GRAY, GRAY_PNG, PALETTE, chunk, png, transparent

GRAY_PIXELS = [[1, 2, 3, 4], [5, 6, 7, 8]]
TURN_LEFT = 8  # EXIF orientation: the first column is the bottom row
LARGE_TEXT = zlib.compress(b"a" * 3_000_000)


def exif(orientation=TURN_LEFT):
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()  # begins with Exif\0\0


PNG_CHUNKS = {
    "a compressed text above 1 MB": chunk(b"zTXt", b"key\0\0" + LARGE_TEXT),
    "an international text above 1 MB": chunk(b"iTXt", b"key\0\1\0\0\0" + LARGE_TEXT),
    "a color profile above 1 MB": chunk(b"iCCP", b"name\0\0" + LARGE_TEXT),
    "a color profile of an unknown compression": chunk(b"iCCP", b"name\0\7abc"),
    "a color profile that is cut off": chunk(b"iCCP", b"name"),
    "a gamma that is cut off": chunk(b"gAMA", b"1"),
    "a wrong checksum": chunk(b"tEXt", b"key\0value", crc=1),
    "EXIF that is not TIFF": chunk(b"eXIf", b"not a TIFF file"),
    "EXIF that is cut off": chunk(b"eXIf", exif()[6:14]),
    "EXIF with a wrong checksum": chunk(b"eXIf", exif(1)[6:], crc=1),
    "an animation of damaged frames": chunk(b"acTL", b"1"),
}


@pytest.mark.parametrize("name", PNG_CHUNKS)
def test_png_files_are_read_without_damaged_metadata(name):
    row_bytes = [bytes(row) for row in GRAY_PIXELS]
    for place in ("before", "after"):
        file = png(4, 8, GRAY, row_bytes, **{place: [PNG_CHUNKS[name]]})
        image = decode(file, "a", 1)
        np.testing.assert_array_equal(np.asarray(image), GRAY_PIXELS)
        # Behind the pixels, Pillow reads what it needs but checks no sums.
        assert has_damaged_metadata(image) or place == "after"


def test_the_orientation_is_kept_beside_other_damaged_metadata():
    rows = [bytes(row) for row in GRAY_PIXELS]
    broken = PNG_CHUNKS["a compressed text above 1 MB"]
    file = png(4, 8, GRAY, rows, [broken, chunk(b"eXIf", exif()[6:])])
    image = decode(file, "a", 1)
    np.testing.assert_array_equal(np.asarray(image), np.rot90(GRAY_PIXELS))
    assert has_damaged_metadata(image)


def test_what_belongs_to_the_pixels_must_be_intact():
    colors = chunk(b"PLTE", bytes(6))
    for name, file in {
        "palette": png(1, 8, PALETTE, [b"\0"], [chunk(b"PLTE", bytes(6), crc=1)]),
        "no palette": png(1, 8, PALETTE, [b"\0"]),
        "transparency": png(1, 8, PALETTE, [b"\0"], [colors, chunk(b"tRNS", b"\0", crc=1)]),
        "color": png(1, 8, GRAY, [b"\0"], [chunk(b"tRNS", b"\0")]),
    }.items():
        with pytest.raises(BrokenImageError, match=f"^{name} cannot be decoded"):
            decode(file, name)


def test_complete_pixels_are_read_whatever_follows():
    for end in (b"garbage" * 100, b"\0", GRAY_PNG):
        image = decode(GRAY_PNG + end, "a", 1)
        np.testing.assert_array_equal(np.asarray(image), GRAY_PIXELS)
        assert not has_damaged_metadata(image)
    pixels = decode(JPEG, "a")
    np.testing.assert_array_equal(np.asarray(decode(JPEG + b"garbage", "a")), np.asarray(pixels))


def test_files_that_are_cut_off_are_broken_or_complete():
    file = png(4, 8, GRAY, [bytes(row) for row in GRAY_PIXELS], [transparent(3)])
    expected = np.asarray(decode(file, "a", 1))
    for cut_off, content in ((file, expected), (JPEG, np.asarray(decode(JPEG, "a", 1)))):
        outcomes = []
        for length in range(1, len(cut_off)):
            try:
                image = decode(cut_off[:length], "a", 1)
            except BrokenImageError:
                outcomes.append(False)
            else:
                np.testing.assert_array_equal(np.asarray(image), content)
                outcomes.append(True)
        assert outcomes == sorted(outcomes)  # complete only if little is missing
        assert not any(outcomes[:-24])


def jpeg(mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, len(mode)), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels.reshape(3, 4, -1).squeeze(), mode).save(data, "JPEG", **options)
    return data.getvalue()


JPEG = jpeg()


def segment(marker, content):
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


JPEG_SEGMENTS = {
    "JFIF that is cut off": segment(0xE0, b"JFIF\0"),
    "EXIF that is not TIFF": segment(0xE1, b"Exif\0\0not a TIFF file"),
    "EXIF that is cut off": segment(0xE1, exif()[:14]),
    "EXIF with a value beyond its end": segment(
        0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHII", 0x010F, 2, 99, 999)
    ),
    "a color profile that is cut off": segment(0xE2, b"ICC_PROFILE\0"),
    "resources of Photoshop that are cut off": segment(0xED, b"Photoshop 3.0\x008BIM\4\4"),
    "an Adobe segment that is cut off": segment(0xEE, b"Adobe"),
    "a list of images that is cut off": segment(0xE2, b"MPF\0MM\0*"),
}


@pytest.mark.parametrize("name", JPEG_SEGMENTS)
def test_jpeg_files_are_read_without_damaged_metadata(name):
    file = JPEG[:2] + JPEG_SEGMENTS[name] + JPEG[2:]
    image = decode(file, "a")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(decode(JPEG, "a")))
    assert has_damaged_metadata(image)
    turned = jpeg(exif=exif())
    if "EXIF" not in name:
        image = decode(turned[:2] + JPEG_SEGMENTS[name] + turned[2:], "a")
        np.testing.assert_array_equal(np.asarray(image), np.rot90(np.asarray(decode(JPEG, "a"))))


def test_segments_that_decide_the_color_space_are_kept():
    """libjpeg reads the components as RGB, gray, YCbCr or CMYK, according to these segments."""
    for file in (JPEG, jpeg("CMYK"), jpeg("RGB", keep_rgb=True), jpeg("L")):
        stripped = without_metadata(file[:2] + segment(0xFE, b"comment") + file[2:], True)
        assert stripped == without_metadata(file, False)
        np.testing.assert_array_equal(
            np.asarray(decode(stripped, "a")), np.asarray(decode(file, "a"))
        )


def test_files_without_a_known_structure():
    for data in (
        b"",
        b"GIF89a",
        b"\xff\xd8",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0\0\x10JF",
        JPEG[2:],
    ):
        assert without_metadata(data, True) is None
