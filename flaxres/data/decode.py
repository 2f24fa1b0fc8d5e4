"""Encoded images, of whatever kind people have, as pixels."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from flaxres.errors import DatasetError, one_line

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by channels


class BrokenImageError(DatasetError):
    """An image that cannot be decoded; the message names its file or record."""


def decode(data: bytes, where: str, channels: int = 3) -> Image.Image:
    """Decodes a JPEG, PNG or what else Pillow knows.

    Greyscale becomes colour (or the other way round), of 16 bits the upper eight, CMYK becomes RGB,
    the rotation that EXIF asks for is made, and transparent pixels are laid over black, unless four
    channels are asked for.

    Args:
      data: the file's content.
      where: what to call it in a message: a file, or a record of a data set.
      channels: of the result, 1, 3 or 4.

    Raises:
      BrokenImageError: it is empty, cut short, or no image.
    """
    if not data:
        raise BrokenImageError(f"{where} is empty; remove it or write it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            image = ImageOps.exif_transpose(image)
            if channels != 4:
                image = _opaque(image)
            return _of_eight_bits(image).convert(MODES[channels])
    except Exception as error:  # Pillow's readers raise many kinds
        unknown = isinstance(error, UnidentifiedImageError)  # it would name an object in memory
        reason = "no image of a known format" if unknown else one_line(error)
        raise BrokenImageError(
            f"{where} cannot be decoded ({reason}); remove it, write it again, or leave "
            "such images out with --config.dataset.broken_images=skip"
        ) from None


def _opaque(image: Image.Image) -> Image.Image:
    """The image over black, if it has transparent pixels."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)


def _of_eight_bits(image: Image.Image) -> Image.Image:
    """The image, with the upper eight of 16 bits; Pillow itself would cut off what is above 255."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
