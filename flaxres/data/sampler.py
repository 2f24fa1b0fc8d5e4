"""Samplers: the order of the training images, and the batches of an evaluation."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from jaxtyping import Int32

ORDER_STREAM = 0  # distinguishes these random numbers from others that use the same seed


class EpochSampler:
    """Yields every image exactly once per epoch, in a new order each epoch.

    The order depends only on the seed and the step. The epochs' permutations are concatenated and
    cut into batches. If the batch size does not divide the number of images, a batch can hold the
    end of one epoch and the start of the next.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int):
        self.num_images = num_images
        self.batch_size = batch_size
        self._seed = seed
        # A batch spans at most two epochs if batch_size <= num_images.
        self._permutation = functools.lru_cache(maxsize=2)(self._new_permutation)

    def __reduce__(self) -> tuple[Any, ...]:
        return EpochSampler, (self.num_images, self.batch_size, self._seed)

    def _new_permutation(self, epoch: int) -> Int32[np.ndarray, " images"]:
        entropy = (self._seed, ORDER_STREAM, epoch)
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
        return rng.permutation(self.num_images).astype(np.int32)

    def indices(self, step: int, num_steps: int = 1) -> Int32[np.ndarray, "num_steps batch_size"]:
        """Returns the image indices of `num_steps` batches, the first one for step `step`."""
        start = step * self.batch_size
        images = self.images(start, start + num_steps * self.batch_size)
        return images.reshape(num_steps, self.batch_size)

    def images(self, start: int, stop: int) -> Int32[np.ndarray, " positions"]:
        """Returns the image indices at positions start..stop-1 of the concatenated epochs."""
        slices = []
        while start < stop:
            epoch, offset = divmod(start, self.num_images)
            epoch_slice = self._permutation(epoch)[offset : offset + stop - start]
            slices.append(epoch_slice)
            start += len(epoch_slice)
        return np.concatenate(slices)


def evaluation_batches(
    size: int, batch_size: int, num_devices: int
) -> Int32[np.ndarray, "batches batch_size"]:
    """Divides a split into batches that can be sharded evenly over the devices.

    Args:
      size: number of images in the split.
      batch_size: largest batch size, before it is rounded up to a multiple of `num_devices`.
      num_devices: number of devices that share a batch.

    Returns:
      Image indices, each exactly once. The last batch is padded with -1.
    """
    batch_size = -(-min(batch_size, size) // num_devices) * num_devices
    rows = np.arange(-(-size // batch_size) * batch_size, dtype=np.int32)
    return np.where(rows < size, rows, -1).reshape(-1, batch_size)
