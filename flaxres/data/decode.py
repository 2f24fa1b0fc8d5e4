"""Decoding of single images: JPEG, PNG and the other formats of Pillow."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from flaxres.errors import DatasetError, one_line

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's mode for a number of channels


class BrokenImageError(DatasetError):
    """An image that cannot be decoded; the message names its file or record."""


def decode(data: bytes, description: str, channels: int = 3) -> Image.Image:
    """Decodes an image file of any format that Pillow supports.

    Gray images are converted to RGB or the reverse, and CMYK to RGB. Of 16-bit samples the upper
    eight bits are kept. The EXIF orientation is applied. Transparent pixels are blended with black,
    unless `channels` is 4.

    Args:
      data: contents of the file.
      description: file or record of the image, for messages.
      channels: channels of the result: 1, 3 or 4.

    Raises:
      BrokenImageError: the data is empty, truncated or not an image.
    """
    if not data:
        raise BrokenImageError(f"{description} is empty; remove it or write it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
            if channels != 4:
                image = _blend_with_black(image)
            return _to_eight_bits(image).convert(MODES[channels])
    except Exception as error:  # Pillow's readers raise exceptions of many types
        # The message of an UnidentifiedImageError would name the object in memory.
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = "not an image of a known format" if is_unknown else one_line(error)
        raise BrokenImageError(
            f"{description} cannot be decoded ({reason}); remove it, write it again, or skip such "
            "images with --config.dataset.broken_images=skip"
        ) from None


def _blend_with_black(image: Image.Image) -> Image.Image:
    """Composites an image with transparent pixels over black; returns other images unchanged."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Keeps the upper eight of 16 bits; Pillow itself would clip values above 255."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
