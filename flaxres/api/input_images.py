"""Images that a trained model is asked about: arrays, or files and patterns of files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
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
_Array = np.ndarray | jax.Array | Image.Image
ImagesOrPaths = _Array | PathName | Sequence[_Array | PathName]
Arrays = _Array | Sequence[Any]
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
    _check_no_mask(images)
    if _is_array(images):
        images = np.asarray(images)
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


def pixels_of(images: Arrays, shape: tuple[int, int, int]) -> np.ndarray | jax.Array:
    """Returns images that have the shape of a model's, as one array.

    Args:
      images: images, as `flaxres.TrainedModel.normalize` accepts them.
      shape: (height, width, channels) of each image.

    Returns:
      uint8 (..., height, width, channels); traced if the images are.

    Raises:
      ArgumentError: the images have another dtype or shape, or masked pixels.
    """
    rule = f"images must be uint8 of shape {shape}"
    _check_no_mask(images)
    given = list(images) if isinstance(images, Iterator) else images
    try:
        pixels = _as_array(given)
    except Exception:  # of another library, or because lists have several lengths
        raise ArgumentError(f"{rule}, got {shown(given)}") from None
    if isinstance(given, list | tuple) and isinstance(pixels, np.ndarray):
        pixels = _integers_as_bytes(pixels)
    if pixels.dtype != np.uint8 or pixels.shape[-3:] != shape:
        is_array = pixels.ndim > 0 or hasattr(given, "dtype")
        kind = f"{pixels.dtype} of shape {pixels.shape}" if is_array else shown(given)
        raise ArgumentError(f"{rule}, got {kind}")
    return pixels


def _as_array(images: Any) -> np.ndarray | jax.Array:
    if isinstance(images, jax.Array):
        return images
    if isinstance(images, list | tuple) and any(isinstance(i, jax.Array) for i in images):
        return jnp.asarray(images)  # they may be traced
    return np.asarray(images)


def _integers_as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Returns integers from 0 to 255 as uint8, and other values as they are.

    Raises:
      ArgumentError: there are smaller or larger integers.
    """
    if not pixels.size or not np.issubdtype(pixels.dtype, np.integer):
        return pixels
    if pixels.min() < 0 or pixels.max() > 255:
        raise ArgumentError(
            f"images must have integers from 0 to 255, got {pixels.min()} to {pixels.max()}"
        )
    return pixels.astype(np.uint8)


def _is_array(image: object) -> bool:
    """Returns True for arrays of NumPy, JAX and PyTorch, buffers, and images of PIL."""
    is_buffer = isinstance(image, memoryview)
    return is_buffer or hasattr(image, "__array__") or hasattr(image, "__array_interface__")


def _check_no_mask(images: object) -> None:
    if np.ma.is_masked(images):
        raise ArgumentError(
            "images must not have masked pixels; fill them, e.g. with images.filled(0)"
        )


def _read_file(file: str, shape: tuple[int, int, int], short_side: int) -> Pixels:
    try:
        image = decode(read_image_file(file), file, shape[2])
    except BrokenImageError as error:
        raise PredictionError(error.problem) from None
    return resize_to_shape(image, shape[:2], short_side)


def _fit(image: object, shape: tuple[int, int, int], short_side: int) -> Pixels:
    """Returns an array of pixels in the given shape."""
    channels = shape[2]
    if _is_array(image):
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
