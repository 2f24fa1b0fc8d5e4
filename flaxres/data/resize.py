"""Resizing of images to one size: bilinear, then a center crop."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from flaxres.data.decode import MAX_PIXELS

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of an image


@dataclasses.dataclass(frozen=True)
class Crop:
    """A part of an image, and how it is resized.

    Attributes:
      box: part of the image.
      scaled: (width, height) to which the box is resized, in pixels.
      window: (left, top, right, bottom) of the result, in pixels of the resized box.
      reduction: 1, 2, 4 or 8: a JPEG file may be decoded at this fraction of its size.
    """

    box: Box
    scaled: tuple[int, int]
    window: tuple[int, int, int, int]
    reduction: int = 1

    def apply(self, image: Image.Image) -> Image.Image:
        """Resizes and crops a decoded image.

        The filter is bilinear; where the image shrinks, it averages over the area of each new
        pixel.
        """
        resized = image.resize(self.scaled, Image.Resampling.BILINEAR, self.box)
        return resized if self.window == (0, 0, *self.scaled) else resized.crop(self.window)


def scaled_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Returns the (width, height) of an image whose shorter side is scaled to `short_side`.

    Args:
      size: (width, height) of the image.
      short_side: new length of the shorter side, in pixels.
    """
    original = min(size)
    width, height = (max(short_side, round(length * short_side / original)) for length in size)
    return width, height


def resize(image: Image.Image, size: int, short_side: int = 0) -> Image.Image:
    """Scales the shorter side of an image to `short_side`, then takes the center crop.

    The filter is bilinear; where the image shrinks, it averages over the area of each new pixel.

    Args:
      image: image of any size.
      size: height and width of the crop, in pixels.
      short_side: length of the shorter side before the crop, at least `size` (default, 0: `size`).
    """
    return square_crop(image.size, size, short_side).apply(image)


def square_crop(size: tuple[int, int], length: int, short_side: int = 0) -> Crop:
    """Returns the crop that `resize` takes from an image of `size` (width, height)."""
    return center_crop(size, scaled_size(size, short_side or length), (length, length))


def resize_and_crop(
    image: Image.Image, scaled: tuple[int, int], crop: tuple[int, int]
) -> Image.Image:
    """Scales an image to a size, then takes the center crop.

    An image that is thousands of times longer than wide is not scaled as a whole, because that
    would take gigabytes. The result is then the same except for rounding.

    Args:
      image: image of any size.
      scaled: (width, height) to which it is scaled, in pixels.
      crop: (width, height) of the crop, in pixels, not larger than `scaled`.
    """
    return center_crop(image.size, scaled, crop).apply(image)


def center_crop(size: tuple[int, int], scaled: tuple[int, int], crop: tuple[int, int]) -> Crop:
    """Returns the crop that `resize_and_crop` takes from an image of `size` (width, height)."""
    left, top = (scaled[0] - crop[0]) // 2, (scaled[1] - crop[1]) // 2
    right, bottom = left + crop[0], top + crop[1]
    if math.prod(scaled) <= MAX_PIXELS:
        return Crop((0, 0, *size), scaled, (left, top, right, bottom))
    x_factor, y_factor = size[0] / scaled[0], size[1] / scaled[1]
    box = (
        left * x_factor,
        top * y_factor,
        min(right * x_factor, size[0]),
        min(bottom * y_factor, size[1]),
    )
    return Crop(box, crop, (0, 0, *crop))


def resize_arrays(
    images: UInt8[np.ndarray, "batch height width channels"], size: int
) -> UInt8[np.ndarray, "batch size size channels"]:
    """Resizes and center-crops images of 1 or 3 channels as `resize` does."""
    is_gray = images.shape[-1] == 1
    resized = [
        resize(Image.fromarray(image[..., 0] if is_gray else image), size) for image in images
    ]
    return np.stack([np.asarray(image) for image in resized]).reshape(
        len(images), size, size, images.shape[-1]
    )


def image_to_array(image: Image.Image) -> UInt8[np.ndarray, "height width channels"]:
    """Converts an image to an array, with a channel axis for gray images too."""
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def resize_to_shape(
    image: Image.Image, size: tuple[int, int], short_side: int = 0
) -> UInt8[np.ndarray, "height width channels"]:
    """Scales an image until it covers `size`, then takes the center crop.

    If `size` is a square, the result is that of `resize`. An image that already has this size is
    returned unchanged.

    Args:
      image: image of any size.
      size: (height, width) of the result, in pixels.
      short_side: length of the shorter side before the crop, only for squares (default, 0: as
        short as possible).
    """
    height, width = size
    if height == width:
        return image_to_array(resize(image, height, short_side))
    scale = max(height / image.height, width / image.width)
    scaled = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    return image_to_array(resize_and_crop(image, scaled, (width, height)))


def resize_mean(
    mean: Float32[np.ndarray, "_ _ channels"], size: tuple[int, int]
) -> Float32[np.ndarray, "height width channels"]:
    """Stretches the mean image to the size of test-time crops, with bilinear interpolation.

    Crops of the model's input size get the mean image unchanged, wherever they lie in the image.
    Training also subtracts it from the model's input, not from the whole image.

    Args:
      mean: mean image of the training split.
      size: (height, width) of the crops, in pixels.
    """
    if mean.shape[:2] == tuple(size):
        return mean
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(mean, 2, 0)]
    planes = [plane.resize(size[::-1], Image.Resampling.BILINEAR) for plane in planes]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)
