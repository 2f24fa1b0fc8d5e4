"""Test-time crops: the parts of an image that an evaluation passes to a model.

- split: the image as the data set provides it, resized according to `dataset.image_size` and
  `dataset.eval_short_side`.
- center: the central crop of the image, after its short side is resized.
- 10-crop: four corner crops and the central crop of the resized image's central square, and their
  mirror images (Krizhevsky 2012, "ImageNet Classification with Deep Convolutional Neural Networks",
  sections 2 and 4.1; He15, arXiv 1512.03385, section 4.1).
- multi-scale: the whole image at several short sides, and its mirror images, for models that end
  in global average pooling (He15, section 3.4).

multi-scale trims the ends of the long side to 7/7, 8/7, ... or 14/7 of the short side (multiples of
32 pixels at 224). A scale then has at most 15 shapes, so few programs are compiled. Square images
are not trimmed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from flaxres.data.decode import MAX_PIXELS
from flaxres.data.resize import image_to_array, resize, resize_and_crop
from flaxres.errors import ConfigError, DatasetError
from flaxres.suggestions import did_you_mean

CROP_PROTOCOLS = ("split", "center", "10-crop", "multi-scale")
PAPER_SIZE = 224  # height and width of the paper's input images, in pixels
PAPER_SHORT_SIDE = 256  # short side that crops are taken from: Krizhevsky 2012, section 2
PAPER_SCALES = (224, 256, 384, 480, 640)  # short sides of whole images: He15, section 3.4
MAX_SHORT_SIDE = math.isqrt(MAX_PIXELS)  # in pixels: an image of this height and width
PARTS = 7  # the long side of a trimmed image is a multiple of 1/PARTS of its short side


@dataclasses.dataclass(frozen=True)
class CropProtocol:
    """The test-time crops that are taken from each image.

    Attributes:
      name: one of `CROP_PROTOCOLS`.
      size: (height, width) of the model's input images, in pixels.
      short_sides: short sides to which the image is resized, in pixels. For 'split', () leaves the
        image at its size.
    """

    name: str
    size: tuple[int, int]
    short_sides: tuple[int, ...] = ()

    @property
    def mirror(self) -> bool:
        """True if the mirror image of each crop is evaluated too."""
        return self.name in ("10-crop", "multi-scale")

    @property
    def num_crops(self) -> int:
        """Number of crops of an image, not counting mirror images."""
        return {"10-crop": 5, "multi-scale": len(self.short_sides)}.get(self.name, 1)

    def crops(self, image: Image.Image) -> list[UInt8[np.ndarray, "_ _ channels"]]:
        """Returns the crops of an image, without mirror images.

        Returns:
          Arrays of shape (height, width, channels). Except for multi-scale, they have the size of
          the model's input images.

        Raises:
          DatasetError: the crop is 'split' and the image has another size than the model's inputs.
        """
        if self.name == "split":
            if self.short_sides:
                image = resize(image, self.size[0], self.short_sides[0])
            pixels = image_to_array(image)
            if pixels.shape[:2] != self.size:
                raise DatasetError(
                    f"has {pixels.shape[0]} x {pixels.shape[1]} pixels, but the model's input "
                    f"images have {self.size[0]} x {self.size[1]}; choose another --test_crops"
                )
            return [pixels]
        if self.name == "multi-scale":
            return [
                image_to_array(resize_and_trim(image, short_side))
                for short_side in self.short_sides
            ]
        square = image_to_array(resize(image, self.short_sides[0]))
        square_height, square_width, _ = square.shape
        offsets = crop_offsets((square_height, square_width), self.size)
        offsets = offsets if self.name == "10-crop" else offsets[-1:]
        height, width = self.size
        # Copies, so that crops that wait for their batch do not keep the whole square in memory.
        return [square[top : top + height, left : left + width].copy() for top, left in offsets]

    def extreme_sizes(self) -> list[tuple[int, int]]:
        """Returns (height, width) of the smallest and the longest crops at each short side.

        A model that accepts these sizes accepts all sizes of the protocol.
        """
        if self.name != "multi-scale":
            return [self.size]
        return [size for short in self.short_sides for size in ((short, short), (short, 2 * short))]

    @property
    def max_pixels(self) -> int:
        """Largest number of pixels that the crops of an image have together."""
        if self.name == "multi-scale":
            return sum(2 * short_side**2 for short_side in self.short_sides)
        return self.num_crops * math.prod(self.size)

    def __str__(self) -> str:
        """Returns a one-line description, which is logged before the results."""
        height, width = self.size
        short_sides = ", ".join(map(str, self.short_sides))
        return {
            "split": f"split: images of {height} x {width} pixels",
            "center": f"center: short side {short_sides}, crop of {height} x {width} pixels",
            "10-crop": f"10-crop: short side {short_sides}, five crops of {height} x {width} "
            "pixels and their mirror images",
            "multi-scale": "multi-scale: whole images and their mirror images, short sides "
            f"{short_sides}; long sides trimmed to 7/7, 8/7, ... or 14/7 of the short side",
        }[self.name]


def make_crop_protocol(
    name: str,
    size: tuple[int, int],
    short_side: int | None = None,
    scales: Sequence[int] = (),
    split_short_side: int = 0,
) -> CropProtocol:
    """Creates a crop protocol; default sizes are the paper's, scaled by (model's input size) / 224.

    Args:
      name: one of `CROP_PROTOCOLS`.
      size: (height, width) of the model's input images, in pixels.
      short_side: short side for 'center' and '10-crop', in pixels (None: 256/224 of the size).
      scales: short sides for 'multi-scale', in pixels (empty: {224, 256, 384, 480, 640}/224 of the
        size).
      split_short_side: short side for 'split', in pixels; 0 leaves images at their size.

    Raises:
      ConfigError: the name is unknown, or the sizes do not fit the protocol.
    """
    if name not in CROP_PROTOCOLS:
        raise ConfigError(
            f"--test_crops must be one of {', '.join(CROP_PROTOCOLS)}, got {name!r}"
            f"{did_you_mean(name, CROP_PROTOCOLS)}"
        )
    takes_crops = name in ("center", "10-crop")
    if short_side is not None and not takes_crops:
        raise ConfigError(f"--short_side applies to --test_crops=center and 10-crop, got {name}")
    if scales and name != "multi-scale":
        raise ConfigError(f"--scales applies to --test_crops=multi-scale, got {name}")
    if name == "split":
        return CropProtocol(name, size, (split_short_side,) if split_short_side else ())
    ratio = max(size) / PAPER_SIZE
    if takes_crops:
        short_side = round(PAPER_SHORT_SIDE * ratio) if short_side is None else short_side
        if short_side < max(size):
            raise ConfigError(
                f"--short_side must be at least {max(size)}, the pixels of a crop, got {short_side}"
            )
        _check_largest("--short_side", short_side)
        return CropProtocol(name, size, (short_side,))
    short_sides = tuple(scales) or tuple(round(scale * ratio) for scale in PAPER_SCALES)
    if min(short_sides) < 1 or len(set(short_sides)) < len(short_sides):
        given = ", ".join(map(str, short_sides))
        raise ConfigError(f"--scales must be different numbers of pixels, at least 1, got {given}")
    _check_largest("--scales", max(short_sides))
    return CropProtocol(name, size, short_sides)


def _check_largest(option: str, short_side: int) -> None:
    """Checks that a resized image has at most as many pixels as an image that is decoded."""
    if short_side > MAX_SHORT_SIDE:
        raise ConfigError(f"{option} must be at most {MAX_SHORT_SIDE:,} pixels, got {short_side:,}")


def crop_offsets(image_size: tuple[int, int], crop_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns (top, left) of five crops: upper left, upper right, lower left, lower right, center.

    Args:
      image_size: (height, width) of the image.
      crop_size: (height, width) of a crop.
    """
    bottom, right = (length - crop for length, crop in zip(image_size, crop_size, strict=True))
    corners = [(top, left) for top in (0, bottom) for left in (0, right)]
    return [*corners, (bottom // 2, right // 2)]


def resize_and_trim(image: Image.Image, short_side: int) -> Image.Image:
    """Resizes the short side of an image and trims the ends of its long side (see the module).

    Interpolation is bilinear, as in `flaxres.data.resize`.

    Args:
      image: an image of any size.
      short_side: short side of the result, in pixels.
    """
    old_short_side = min(image.size)
    width, height = (
        max(short_side, round(side * short_side / old_short_side)) for side in image.size
    )
    lengths = [short_side + part * short_side // PARTS for part in range(PARTS + 1)]
    new_width, new_height = (
        max(length for length in lengths if length <= side) for side in (width, height)
    )
    return resize_and_crop(image, (width, height), (new_width, new_height))
