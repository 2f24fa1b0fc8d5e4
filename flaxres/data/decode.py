"""Encoded images, of whatever kind people have, as pixels."""

from __future__ import annotations

import io
import warnings

from PIL import Image, ImageOps

from flaxres.errors import DatasetError, one_line

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by channels


class BrokenImageError(DatasetError):
    """An image that cannot be decoded; the message names its file or record."""


def decode(data: bytes, where: str, channels: int = 3) -> Image.Image:
    """Decodes a JPEG, PNG or what else Pillow knows.

    Greyscale becomes colour (or the other way round), CMYK becomes RGB, transparent pixels are laid
    over black as in most data pipelines, and the rotation that EXIF asks for is made.

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
            return image.convert(MODES[channels])
    except Exception as error:  # Pillow's readers raise many kinds
        raise BrokenImageError(
            f"{where} cannot be decoded ({one_line(error)}); remove it, write it again, or leave "
            "such images out with --config.dataset.broken_images=skip"
        ) from None
