"""Pixel values of PNG files, worked out by hand from the PNG specification."""

import numpy as np
import pytest

from flaxres.data.decode import decode
from tests.data.pngs import (
    GRAY,
    GRAY_ALPHA,
    PALETTE,
    RGB,
    RGBA,
    chunk,
    png,
    transparent,
    words,
)

COLORS = bytes((10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120))  # four colors of a palette
PLTE = chunk(b"PLTE", COLORS)
TWO_RGB_16 = (0x1234, 0x5678, 0x9ABC, 0x12FF, 0x5678, 0x9ABC)  # the same upper bytes

# Depth, color type, pixels of the only row, its width, chunks before the pixels, and the expected
# pixels with 4 channels.
CASES = {
    "gray, 1 bit": (1, GRAY, bytes([0b01100000]), 3, [], [0, 255, 255]),
    "gray, 1 bit, black transparent": (
        *(1, GRAY, bytes([0b01000000]), 2, [transparent(0)]),
        [(0, 0, 0, 0), 255],
    ),
    "gray, 1 bit, white transparent": (
        *(1, GRAY, bytes([0b01000000]), 2, [transparent(1)]),
        [0, (255, 255, 255, 0)],
    ),
    "gray, 2 bits": (2, GRAY, bytes([0b00011011]), 4, [], [0, 85, 170, 255]),
    "gray, 2 bits, one transparent": (
        *(2, GRAY, bytes([0b00011011]), 4, [transparent(2)]),
        [0, 85, (170, 170, 170, 0), 255],
    ),
    "gray, 4 bits": (4, GRAY, bytes([0x0A, 0xF0]), 3, [], [0, 170, 255]),
    "gray, 4 bits, one transparent": (
        *(4, GRAY, bytes([0x0A, 0xF0]), 3, [transparent(10)]),
        [0, (170, 170, 170, 0), 255],
    ),
    "gray, 8 bits": (8, GRAY, bytes((0, 7, 255)), 3, [], [0, 7, 255]),
    "gray, 8 bits, one transparent": (
        *(8, GRAY, bytes((0, 7, 255)), 3, [transparent(7)]),
        [0, (7, 7, 7, 0), 255],
    ),
    "gray, 8 bits, only the lower bits of the transparent sample count": (
        *(8, GRAY, bytes((0, 7, 255)), 3, [transparent(0x0107)]),
        [0, (7, 7, 7, 0), 255],
    ),
    "gray, 16 bits": (
        *(16, GRAY, words(0x00FF, 0x1234, 0x12FF, 0xFFFF), 4, []),
        [0, 0x12, 0x12, 0xFF],
    ),
    "gray, 16 bits, one transparent": (
        *(16, GRAY, words(0x00FF, 0x1234, 0x12FF, 0xFFFF), 4, [transparent(0x1234)]),
        [0, (0x12, 0x12, 0x12, 0), 0x12, 0xFF],
    ),
    "RGB, 8 bits": (8, RGB, bytes((1, 2, 3, 4, 5, 6)), 2, [], [(1, 2, 3), (4, 5, 6)]),
    "RGB, 8 bits, one transparent": (
        *(8, RGB, bytes((1, 2, 3, 1, 2, 4)), 2, [transparent(1, 2, 3)]),
        [(1, 2, 3, 0), (1, 2, 4)],
    ),
    "RGB, 16 bits": (
        *(16, RGB, words(*TWO_RGB_16), 2, []),
        [(0x12, 0x56, 0x9A), (0x12, 0x56, 0x9A)],
    ),
    "RGB, 16 bits, one transparent": (
        *(16, RGB, words(*TWO_RGB_16), 2, [transparent(*TWO_RGB_16[:3])]),
        [(0x12, 0x56, 0x9A, 0), (0x12, 0x56, 0x9A)],
    ),
    "palette, 1 bit": (1, PALETTE, bytes([0b01000000]), 2, [PLTE], [(10, 20, 30), (40, 50, 60)]),
    "palette, 2 bits": (
        2,
        PALETTE,
        bytes([0b11010000]),
        2,
        [PLTE],
        [(100, 110, 120), (40, 50, 60)],
    ),
    "palette, 4 bits": (4, PALETTE, bytes([0x20]), 2, [PLTE], [(70, 80, 90), (10, 20, 30)]),
    "palette, 8 bits, one color transparent": (
        *(8, PALETTE, bytes((0, 1, 2)), 3, [PLTE, chunk(b"tRNS", bytes((255, 0, 255)))]),
        [(10, 20, 30), (40, 50, 60, 0), (70, 80, 90)],
    ),
    "palette, 4 bits, one color transparent": (
        *(4, PALETTE, bytes([0x12]), 2, [PLTE, chunk(b"tRNS", bytes((255, 0)))]),
        [(40, 50, 60, 0), (70, 80, 90)],
    ),
    "palette, 8 bits, several alpha values": (
        *(8, PALETTE, bytes((0, 1, 2)), 3, [PLTE, chunk(b"tRNS", bytes((0, 128)))]),
        [(10, 20, 30, 0), (40, 50, 60, 128), (70, 80, 90)],
    ),
    "gray and alpha, 8 bits": (
        *(8, GRAY_ALPHA, bytes((9, 0, 9, 128, 9, 255)), 3, []),
        [(9, 9, 9, 0), (9, 9, 9, 128), 9],
    ),
    "gray and alpha, 16 bits": (
        *(16, GRAY_ALPHA, words(0x1234, 0x00FF, 0x1234, 0xFF00), 2, []),
        [(0x12, 0x12, 0x12, 0), 0x12],
    ),
    "RGBA, 8 bits, a hidden color": (
        *(8, RGBA, bytes((200, 100, 50, 0, 200, 100, 50, 255)), 2, []),
        [(200, 100, 50, 0), (200, 100, 50)],
    ),
    "RGBA, 16 bits, a hidden color": (
        *(16, RGBA, words(0xC8FF, 0x64FF, 0x32FF, 0, 0xC8FF, 0x64FF, 0x32FF, 0xFFFF), 2, []),
        [(200, 100, 50, 0), (200, 100, 50)],
    ),
}


def as_rgba(pixel):
    pixel = (pixel,) * 3 if isinstance(pixel, int) else pixel
    return (*pixel, 255)[:4]


@pytest.mark.parametrize("name", CASES)
def test_pixels_of_every_kind_of_png(name):
    depth, color_type, row, width, before, pixels = CASES[name]
    rgba = np.array([as_rgba(pixel) for pixel in pixels])
    blended = rgba[:, :3] * rgba[:, 3:] / 255  # on black
    gray = blended @ (0.299, 0.587, 0.114)  # ITU-R BT.601
    file = png(width, depth, color_type, [row], before)
    tolerance = 1 if (rgba[:, 3] == 128).any() else 0  # partly transparent colors are rounded
    np.testing.assert_array_equal(np.asarray(decode(file, "a", 4))[0], rgba)
    np.testing.assert_allclose(np.asarray(decode(file, "a"))[0], blended, atol=tolerance)
    np.testing.assert_allclose(np.asarray(decode(file, "a", 1))[0], gray, atol=0.6 + tolerance)


def test_transparent_colors_of_an_interlaced_image():
    """In Adam7, pixel 0 of the first row belongs to pass 1, and pixel 1 to pass 6."""
    samples = words(*TWO_RGB_16)
    passes = [samples[:6], samples[6:]]
    file = png(2, 16, RGB, [samples], [transparent(*TWO_RGB_16[:3])], passes=passes)
    expected = [[(0, 0, 0), (0x12, 0x56, 0x9A)]]
    np.testing.assert_array_equal(np.asarray(decode(file, "a")), expected)
