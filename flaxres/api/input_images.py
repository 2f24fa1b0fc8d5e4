"""Images that a trained model is asked about: arrays, or files and patterns of files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from flaxres.data.decode import BrokenImageError, decode
from flaxres.data.image_files import read_image_file
from flaxres.data.resize import resize_to_shape
from flaxres.errors import ArgumentError, counted
from flaxres.field_checks import shown
from flaxres.inference.predict import PredictionError, find_images

PathName = str | os.PathLike[str]
ImagesOrPaths = np.ndarray | jax.Array | PathName | Sequence[np.ndarray | jax.Array | PathName]
Pixels = UInt8[np.ndarray, "height width channels"]


def read_images(
    images: ImagesOrPaths, shape: tuple[int, int, int], short_side: int
) -> tuple[list[Pixels], list[str]]:
    """Reads images and resizes them to one shape.

    Args:
      images: arrays or paths, as `flaxres.TrainedModel.predict` accepts them.
      shape: (height, width, channels) of the result.
      short_side: length of the shorter side before the center crop; 0: as short as possible.

    Returns:
      The images, and their files; no files if arrays were given.

    Raises:
      ArgumentError: an array has another dtype or another number of channels, or there are both
        arrays and paths.
      PredictionError: a file does not exist or cannot be decoded.
    """
    if not isinstance(images, np.ndarray) and hasattr(images, "__array__"):
        images = np.asarray(images)  # of JAX, PyTorch or PIL
    if isinstance(images, str | os.PathLike):
        images = [images]
    elif isinstance(images, np.ndarray):
        images = [images] if images.ndim == 3 else list(images)
    elif not isinstance(images, Iterable):
        raise ArgumentError(f"images must be arrays or paths, got {shown(images)}")
    arrays: list[np.ndarray] = []
    files: list[str] = []
    for image in images:
        if isinstance(image, str | os.PathLike):
            found, errors = find_images([os.fspath(image)])
            if errors:
                raise PredictionError(errors[0])
            arrays += [_read_file(file, shape, short_side) for file in found]
            files += found
        else:
            arrays.append(_fit(image, shape, short_side))
    if files and len(files) != len(arrays):
        raise ArgumentError("images must be either arrays or paths, got both")
    return arrays, files


def _read_file(file: str, shape: tuple[int, int, int], short_side: int) -> Pixels:
    try:
        image = decode(read_image_file(file), file, shape[2])
    except BrokenImageError as error:
        raise PredictionError(error.problem) from None
    return resize_to_shape(image, shape[:2], short_side)


def _fit(image: object, shape: tuple[int, int, int], short_side: int) -> Pixels:
    """Returns an array of pixels in the given shape."""
    channels = shape[2]
    if hasattr(image, "__array__"):
        image = np.asarray(image)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
        given = shown(image)
        if isinstance(image, np.ndarray):
            given = f"{image.dtype} of shape {image.shape}"
        raise ArgumentError(
            f"images must be uint8 arrays (height, width, {channels}) or paths; one of them is "
            f"{given}"
        )
    if image.shape[2] != channels or 0 in image.shape:
        raise ArgumentError(
            f"images of this model have {counted(channels, 'channel')}, got an image of shape "
            f"{image.shape}"
        )
    if image.shape == shape:
        return image
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    return resize_to_shape(picture, shape[:2], short_side)
