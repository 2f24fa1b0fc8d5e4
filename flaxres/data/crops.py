"""What is taken of a decoded image: random crops for training, the middle for evaluation."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from flaxres.data.resize import resize, scaled_size

# Sets these random numbers apart from all others of the same seed: see `flaxres.data.sampler` and
# `flaxres.training.train_state`.
CROP_STREAM = 5
TRIES = 10  # for a crop of a given area and aspect that lies in the image

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the image


@dataclasses.dataclass(frozen=True)
class Cropper:
    """How images become arrays of one size; see `config.dataset` and `config.augment`.

    Attributes:
      size: pixels on each side; 0 for images as they are.
      eval_short_side: of an image before the middle is taken for evaluation; 0 for `size`.
      crop: 'pad' (nothing random here, the device pads and crops), 'scale' or 'area'.
      short_side: of 'scale', its smallest and largest value.
      area: of 'area', parts of the image's area, smallest and largest.
      aspect: of 'area', width over height, smallest and largest.
      seed: of the crops.
    """

    size: int
    eval_short_side: int = 0
    crop: str = "pad"
    short_side: tuple[int, int] = (256, 480)
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    seed: int = 0

    @classmethod
    def from_config(cls, config: ConfigDict) -> Cropper:
        """Those of an experiment."""
        options = config.augment
        return cls(
            size=config.dataset.image_size,
            eval_short_side=config.dataset.eval_short_side,
            crop=options.crop,
            short_side=tuple(options.short_side_range),
            area=tuple(options.area_range),
            aspect=tuple(options.aspect_ratio_range),
            seed=config.seed,
        )

    def train_crop(self, image: Image.Image, position: int) -> Image.Image:
        """What the net is trained on: a function of the image, the seed and the position alone.

        Args:
          image: decoded.
          position: of the image in the endless sequence of epochs.
        """
        if self.crop == "pad":
            return resize(image, self.size) if self.size else image
        entropy = (self.seed, CROP_STREAM, position)
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
        draw = random_scale_crop if self.crop == "scale" else random_resized_crop
        box = draw(rng, image, self)
        # One operation for the crop and the change of size, that leaves out what is cut off.
        return image.resize((self.size, self.size), Image.Resampling.BILINEAR, box)

    def eval_crop(self, image: Image.Image) -> Image.Image:
        """The middle of the image."""
        return resize(image, self.size, self.eval_short_side) if self.size else image


def random_scale_crop(rng: np.random.Generator, image: Image.Image, crops: Cropper) -> Box:
    """He15 (arXiv 1512.03385), section 3.4, as in VGG: a short side drawn evenly, a crop anywhere.

    All whole numbers of pixels from `crops.short_side[0]` to `[1]` have the same chance.
    """
    low, high = crops.short_side
    scaled = scaled_size(image, int(rng.integers(low, high, endpoint=True)))
    starts = [int(rng.integers(0, length - crops.size, endpoint=True)) for length in scaled]
    # In pixels of the image as it is.
    factors = [length / new for length, new in zip(image.size, scaled, strict=True)]
    left, top = (start * factor for start, factor in zip(starts, factors, strict=True))
    right, bottom = (
        min((start + crops.size) * factor, length)
        for start, factor, length in zip(starts, factors, image.size, strict=True)
    )
    return left, top, right, bottom


def random_resized_crop(rng: np.random.Generator, image: Image.Image, crops: Cropper) -> Box:
    """Szegedy et al. 2014 (arXiv 1409.4842), section 6: a part of 8% to 100% of the image's area.

    The area is drawn evenly, and the ratio of width to height from 3/4 to 4/3, here evenly on a
    logarithmic scale, so that no orientation is preferred. Where none of some tries fits into the
    image, the largest part in its middle that has an allowed ratio is taken.
    """
    width, height = image.size
    for _ in range(TRIES):
        area = rng.uniform(*crops.area) * width * height
        ratio = math.exp(rng.uniform(*map(math.log, crops.aspect)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(0, width - w, endpoint=True))
            top = int(rng.integers(0, height - h, endpoint=True))
            return left, top, left + w, top + h
    ratio = min(max(width / height, crops.aspect[0]), crops.aspect[1])
    w, h = max(1, min(width, round(height * ratio))), max(1, min(height, round(width / ratio)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
