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
    gray = images.shape[-1] == 1
    resized = [resize(Image.fromarray(image[..., 0] if gray else image), size) for image in images]
    return np.stack([np.asarray(image) for image in resized]).reshape(
        len(images), size, size, images.shape[-1]
    )


def image_to_array(image: Image.Image) -> np.ndarray:
    """uint8 (height, width, channels)."""
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def resize_to_shape(image: Image.Image, size: tuple[int, int], short_side: int = 0) -> np.ndarray:
    """The middle of an image of any size, scaled to cover height and width `size`.

    An image of that size is left as it is; where the size is a square, this is
    `resize`.

    Args:
      image: of any size.
      size: of the result.
      short_side: that the image is scaled to before; 0 for no more than is needed.

    Returns:
      uint8 (height, width, channels).
    """
    height, width = size
    if height == width:
        return image_to_array(resize(image, height, short_side))
    scale = max(height / image.height, width / image.width)
    scaled = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image_to_array(image.crop((left, top, left + width, top + height)))


def resize_mean(mean: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mean image for views of another size: stretched to it, bilinear.

    Crops of the net's size get the mean image as it is, whatever part of the image they show: as in
    training, where it is subtracted from what the net sees.

    Args:
      mean: float32 (height, width, channels).
      size: height and width.
    """
    if mean.shape[:2] == tuple(size):
        return mean
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(mean, 2, 0)]
    planes = [plane.resize(size[::-1], Image.Resampling.BILINEAR) for plane in planes]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)
