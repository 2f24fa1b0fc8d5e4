"""Crops made on the host: random crops for training, the center crop for evaluation."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from ml_collections import ConfigDict

from flaxres.data.resize import Box, Crop, scaled_size, square_crop

# Distinguishes these random numbers from others that use the same seed, in
# `flaxres.data.sampler` and `flaxres.training.train_state`.
CROP_STREAM = 5
REDUCTIONS = (1, 2, 4, 8)  # scales of the inverse DCT that libjpeg-turbo has in SIMD code
MAX_ATTEMPTS = 10  # to draw a random resized crop that lies in the image


@dataclasses.dataclass(frozen=True)
class Cropper:
    """Crops images of any size to one size, as `config.dataset` and `config.augment` say.

    Attributes:
      size: height and width of the crops, in pixels; 0 leaves images unchanged.
      eval_short_side: length of the shorter side before the center crop of an evaluation; 0 for
        `size`.
      crop: crop in training: 'pad' (no random crop here; it is made on the device), 'scale'
        (`random_scale_crop`) or 'random-resized' (`random_resized_crop`).
      short_side: smallest and largest shorter side for 'scale', in pixels.
      area: smallest and largest area for 'random-resized', as fractions of the image's area.
      aspect: smallest and largest ratio of width to height for 'random-resized'.
      seed: seed of the random crops.
      scales_jpeg: if True, JPEG files are decoded at 1/2, 1/4 or 1/8 of their size for random crops
        that are at least as many times larger than `size`.
    """

    size: int
    eval_short_side: int = 0
    crop: str = "pad"
    short_side: tuple[int, int] = (256, 480)
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    seed: int = 0
    scales_jpeg: bool = False

    @classmethod
    def from_config(cls, config: ConfigDict) -> Cropper:
        """Returns the cropper of an experiment."""
        augment = config.augment
        return cls(
            size=config.dataset.image_size,
            eval_short_side=config.dataset.eval_short_side,
            crop=augment.crop,
            short_side=tuple(augment.short_side_range),
            area=tuple(augment.area_range),
            aspect=tuple(augment.aspect_ratio_range),
            seed=config.seed,
            scales_jpeg=config.dataset.decode == "scaled",
        )

    def train_crop(self, size: tuple[int, int], position: int) -> Crop:
        """Returns the crop of an image for training.

        Args:
          size: (width, height) of the image.
          position: position of the image in the concatenated epochs.

        Returns:
          The crop, which depends only on the size of the image, the seed and the position.
        """
        if self.crop == "pad":
            return self.eval_crop(size) if not self.size else square_crop(size, self.size)
        entropy = (self.seed, CROP_STREAM, position)
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
        draw_box = random_scale_crop if self.crop == "scale" else random_resized_crop
        box = draw_box(rng, size, self)
        # Cropping and resizing in one call does not resize what the crop cuts off.
        scaled = (self.size, self.size)
        reduction = 1
        if self.scales_jpeg:
            shrinkage = min(box[2] - box[0], box[3] - box[1]) / self.size
            reduction = max(r for r in REDUCTIONS if r <= max(1, shrinkage))
        return Crop(box, scaled, (0, 0, *scaled), reduction)

    def eval_crop(self, size: tuple[int, int]) -> Crop:
        """Returns the center crop of a resized image of `size` (width, height)."""
        if not self.size:
            return Crop((0, 0, *size), size, (0, 0, *size))
        return square_crop(size, self.size, self.eval_short_side)


def random_scale_crop(rng: np.random.Generator, size: tuple[int, int], cropper: Cropper) -> Box:
    """Draws a crop of a randomly scaled image.

    He15 (arXiv 1512.03385), section 3.4, as in VGG: the shorter side is drawn uniformly from the
    integers `cropper.short_side[0]` to `cropper.short_side[1]`, then the place of the crop.
    """
    low, high = cropper.short_side
    scaled = scaled_size(size, int(rng.integers(low, high, endpoint=True)))
    starts = [int(rng.integers(0, length - cropper.size, endpoint=True)) for length in scaled]
    # Converts pixels of the scaled image to pixels of the original.
    factors = [length / new for length, new in zip(size, scaled, strict=True)]
    left, top = (start * factor for start, factor in zip(starts, factors, strict=True))
    right, bottom = (
        min((start + cropper.size) * factor, length)
        for start, factor, length in zip(starts, factors, size, strict=True)
    )
    return left, top, right, bottom


def random_resized_crop(rng: np.random.Generator, size: tuple[int, int], cropper: Cropper) -> Box:
    """Draws a crop of random area and aspect ratio.

    Szegedy et al. 2014 (arXiv 1409.4842), section 6: an area of 8% to 100% of the image, drawn
    uniformly, and a ratio of width to height between 3/4 and 4/3. Here the ratio is drawn uniformly
    on a logarithmic scale, which treats both orientations alike. If no attempt fits into the image,
    the result is the largest centered crop with an allowed ratio.
    """
    width, height = size
    min_log_ratio, max_log_ratio = map(math.log, cropper.aspect)
    for _ in range(MAX_ATTEMPTS):
        area = rng.uniform(*cropper.area) * width * height
        ratio = math.exp(rng.uniform(min_log_ratio, max_log_ratio))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(0, width - w, endpoint=True))
            top = int(rng.integers(0, height - h, endpoint=True))
            return left, top, left + w, top + h
    ratio = min(max(width / height, cropper.aspect[0]), cropper.aspect[1])
    w, h = max(1, min(width, round(height * ratio))), max(1, min(height, round(width / ratio)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
