"""Decoder of the images of decode tasks, with their random or center crops."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flaxres.data.crops import Cropper
from flaxres.data.decode import BrokenImageError, EncodedImage, has_damaged_metadata
from flaxres.data.jpeg import crop_jpeg, load_cropper
from flaxres.data.resize import Crop, image_to_array
from flaxres.data.sampler import EpochSampler
from flaxres.data.shared_memory import DecodedImages
from flaxres.data.source import Source, check_image_size, check_label
from flaxres.data.stream_schedule import DecodeTask
from flaxres.errors import DatasetError

LabeledPixels = tuple[UInt8[np.ndarray, "height width channels"], int]
Counts = tuple[int, int]  # images that could not be decoded, images without their metadata


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Reads and decodes the images of decode tasks; can be sent to another process.

    Attributes:
      sources: source of each split.
      sampler: order of the training images.
      cropper: crops for training and evaluation.
      image_shape: (height, width, channels) of the decoded images.
      num_classes: number of classes; labels must be below it.
      skip_broken: if True, images that cannot be decoded are skipped and counted. In training, the
        next image that can be decoded takes their place.
      jpeg_library: compiled functions for JPEG files (`flaxres.data.jpeg.find_library`), or None.
    """

    sources: Mapping[str, Source]
    sampler: EpochSampler
    cropper: Cropper
    image_shape: tuple[int, int, int]
    num_classes: int
    skip_broken: bool
    jpeg_library: Path | None = None

    def __call__(self, task: DecodeTask, out: DecodedImages) -> None:
        """Decodes the images of a task into `out`, which has the same size.

        Images that are not valid are zeros.

        Raises:
          DatasetError: an image cannot be read or decoded, differs in size from `image_shape`, or
            has a label that is not a class.
        """
        load = self._load_for_training if task.training else self._load_for_evaluation
        out.counts[:] = 0
        for i, number in enumerate(map(int, task.numbers)):
            example = None
            if number >= 0:
                example, counts = load(task.split, number)
                out.counts[:] += counts
            out.valid[i] = example is not None
            out.images[i], out.labels[i] = (0, 0) if example is None else example

    def _load_for_training(self, split: str, position: int) -> tuple[LabeledPixels, Counts]:
        """Loads the image at a position, or the next one that can be decoded.

        Returns the image with its label, and the numbers for `DecodedImages.counts`.
        """
        source = self.sources[split]
        for skipped in range(len(source)):
            index = int(self.sampler.images(position + skipped, position + skipped + 1)[0])
            crop = functools.partial(self.cropper.train_crop, position=position + skipped)
            try:
                example, is_damaged = self._load(source, index, crop)
            except BrokenImageError:
                if not self.skip_broken:
                    raise
                continue
            return example, (skipped, int(is_damaged))
        raise DatasetError(f"none of the {len(source):,} training images can be decoded")

    def _load_for_evaluation(self, split: str, index: int) -> tuple[LabeledPixels | None, Counts]:
        """Loads an image with its label, or returns None for them if it cannot be decoded.

        Also returns the numbers for `DecodedImages.counts`.
        """
        try:
            example, is_damaged = self._load(self.sources[split], index, self.cropper.eval_crop)
        except BrokenImageError:
            if not self.skip_broken:
                raise
            return None, (1, 0)
        return example, (0, int(is_damaged))

    def _load(
        self, source: Source, index: int, draw_crop: Callable[[tuple[int, int]], Crop]
    ) -> tuple[LabeledPixels, bool]:
        """Loads a crop of an image with its label.

        Args:
          source: source of the image.
          index: its index.
          draw_crop: returns the crop for an image of a (width, height).

        Returns:
          The example, and True if damaged metadata was ignored.
        """
        image, label = source.read(index)
        check_label(label, self.num_classes, source.describe(index))
        pixels = None
        if self.jpeg_library is not None and isinstance(image, EncodedImage):
            pixels = crop_jpeg(image, draw_crop, load_cropper(self.jpeg_library))
        is_damaged = False
        if pixels is None:
            decoded = image.decode() if isinstance(image, EncodedImage) else image
            is_damaged = has_damaged_metadata(decoded)
            pixels = image_to_array(draw_crop(decoded.size).apply(decoded))
        check_image_size(pixels.shape[:2], self.image_shape[:2], source.describe(index))
        return (pixels, label), is_damaged
