"""Data sets in memory: splits of images and labels, and the mean image of the training split."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float32, Int32, UInt8, UInt64


@dataclasses.dataclass(frozen=True)
class Split:
    """Images of one size with their labels.

    Attributes:
      images: uint8 (n, height, width, channels).
      labels: int32 (n,).
    """

    images: UInt8[np.ndarray, "n height width channels"]
    labels: Int32[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory.

    Attributes:
      name: name of the data set.
      train: training split.
      test: test split.
      num_classes: number of classes; labels are 0 to num_classes - 1.
      validation: validation split, or None.
      mean_kind: what `mean_image` computes: 'pixel' (one mean for each pixel and channel) or
        'channel' (one for each channel).
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    validation: Split | None = None
    mean_kind: str = "pixel"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The (height, width, channels) of an image."""
        return self.train.images.shape[1:]

    def mean_image(self) -> Float32[np.ndarray, "height width channels"]:
        """Computes the mean image of the training split, in 0..1.

        He15 (arXiv 1512.03385), section 4.2, subtracts the per-pixel mean. Images are not divided
        by a standard deviation.
        """
        total = self.train.images.sum(axis=0, dtype=np.uint64)
        return mean_from_sum(total, len(self.train), self.mean_kind)


def mean_from_sum(
    total: UInt64[np.ndarray, "height width channels"], count: int, kind: str
) -> Float32[np.ndarray, "height width channels"]:
    """Computes a mean image in 0..1 from the exact sum of images.

    Args:
      total: sum of images in 0..255.
      count: number of images in the sum.
      kind: 'pixel', or 'channel' for the mean of each channel, repeated at all pixels.
    """
    if kind == "channel":
        height, width, _ = total.shape
        channels = total.sum(axis=(0, 1)) / (255.0 * count * height * width)
        return np.broadcast_to(channels, total.shape).astype(np.float32)
    return (total / (255.0 * count)).astype(np.float32)
