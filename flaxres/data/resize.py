"""Images of one size from images of any."""

from __future__ import annotations

import numpy as np
from PIL import Image


def scaled_size(image: Image.Image, short: int) -> tuple[int, int]:
    """(width, height) of the image scaled so that its short side has `short` pixels."""
    side = min(image.size)
    width, height = (max(short, round(length * short / side)) for length in image.size)
    return width, height


def resize(image: Image.Image, size: int, short: int = 0) -> Image.Image:
    """The middle `size` x `size` pixels of the image, scaled so that its short side has `short`.

    Bilinear, over the whole area of each new pixel where the image shrinks.

    Args:
      image: of any size.
      size: of the result.
      short: pixels of the short side before the crop, at least `size`; 0 for `size`.
    """
    width, height = scaled_size(image, short or size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def resize_arrays(images: np.ndarray, size: int) -> np.ndarray:
    """The same for uint8 (n, height, width, channels), with 1 or 3 channels."""
    grey = images.shape[-1] == 1
    resized = [resize(Image.fromarray(image[..., 0] if grey else image), size) for image in images]
    return np.stack([np.asarray(image) for image in resized]).reshape(
        len(images), size, size, images.shape[-1]
    )
