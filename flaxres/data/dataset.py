"""What a data set is to the rest of the code: arrays, number of classes, image shape."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Split:
    """Images of one size with their labels.

    Attributes:
      images: uint8 (n, height, width, channels).
      labels: int32 (n,).
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A training split, a test split, perhaps a validation split, and what they share."""

    name: str
    train: Split
    test: Split
    num_classes: int
    validation: Split | None = None
    mean: str = "pixel"  # or 'channel': what `mean_image` is of

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.train.images.shape[1:]

    def mean_image(self) -> np.ndarray:
        """Mean of the training split, float32 (height, width, channels), in 0..1.

        He15 (arXiv 1512.03385), section 4.2, subtracts that of each pixel; there is no division by
        a deviation.
        """
        total = self.train.images.sum(axis=0, dtype=np.uint64)
        return mean_from_sum(total, len(self.train), self.mean)


def mean_from_sum(total: np.ndarray, count: int, kind: str) -> np.ndarray:
    """The mean of `count` images in 0..1 from their exact sum.

    Args:
      total: uint64 (height, width, channels), of images in 0..255.
      count: how many there were.
      kind: 'pixel', or 'channel' for one number a channel, at all pixels.

    Returns:
      float32 (height, width, channels).
    """
    if kind == "channel":
        height, width, _ = total.shape
        channels = total.sum(axis=(0, 1)) / (255.0 * count * height * width)
        return np.broadcast_to(channels, total.shape).astype(np.float32)
    return (total / (255.0 * count)).astype(np.float32)
