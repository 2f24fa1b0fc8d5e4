"""Images of one size from images of any."""

from __future__ import annotations

import numpy as np
from PIL import Image


def resize(image: Image.Image, size: int) -> Image.Image:
    """The middle `size` x `size` pixels of the image, scaled so that its short side has so many.

    Bilinear, over the whole area of each new pixel where the image shrinks.
    """
    short = min(image.size)
    width, height = (max(size, round(length * size / short)) for length in image.size)
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
