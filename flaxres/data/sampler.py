"""The order of the training images: a function of (seed, step)."""

from __future__ import annotations

import functools

import numpy as np

ORDER_STREAM = 0  # sets these random numbers apart from all others of the same seed


class EpochSampler:
    """Every image exactly once an epoch, in a new order each epoch.

    The epochs' permutations are laid end to end and cut into batches, so where the batch size does
    not divide the number of images a batch holds the end of one epoch and the start of the next.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int):
        self.num_images = num_images
        self.batch_size = batch_size
        self._seed = seed
        # A batch lies in two epochs at most when batch_size <= num_images.
        self._permutation = functools.lru_cache(maxsize=2)(self._new_permutation)

    def __reduce__(self):
        return EpochSampler, (self.num_images, self.batch_size, self._seed)

    def _new_permutation(self, epoch: int) -> np.ndarray:
        entropy = (self._seed, ORDER_STREAM, epoch)
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
        return rng.permutation(self.num_images).astype(np.int32)

    def indices(self, step: int, num_steps: int = 1) -> np.ndarray:
        """Images of the batches of `num_steps` steps from `step` on (0 is the first).

        Returns:
          int32 (num_steps, batch_size), each in 0..num_images - 1.
        """
        start = step * self.batch_size
        images = self.images(start, start + num_steps * self.batch_size)
        return images.reshape(num_steps, self.batch_size)

    def images(self, start: int, stop: int) -> np.ndarray:
        """int32 images at the positions `start` to `stop` of the endless sequence of epochs."""
        parts = []
        while start < stop:
            epoch, offset = divmod(start, self.num_images)
            part = self._permutation(epoch)[offset : offset + stop - start]
            parts.append(part)
            start += len(part)
        return np.concatenate(parts)


def evaluation_batches(size: int, batch_size: int, num_devices: int) -> np.ndarray:
    """Every image of a split once, in batches that `devices` can share evenly.

    Returns:
      int32 (batches, images of a batch): at most `batch_size` images, rounded up to a multiple of
      `devices`; the last batch is filled up with -1.
    """
    batch_size = -(-min(batch_size, size) // num_devices) * num_devices
    rows = np.arange(-(-size // batch_size) * batch_size, dtype=np.int32)
    return np.where(rows < size, rows, -1).reshape(-1, batch_size)
