"""Memory for decoded images: private to this process, or shared with the decode workers."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
from jaxtyping import Bool, Int32, UInt8

from flaxres.data.anonymous_memory import AnonymousMemory

ALIGNMENT = 64  # bytes; JAX on a CPU uses host memory without a copy only if it is so aligned
POLL_SECONDS = 0.001  # between two checks whether a buffer is free


@dataclasses.dataclass(frozen=True, eq=False)
class DecodedImages:
    """Decoded images, or the memory for them.

    Attributes:
      images: uint8 (n, height, width, channels).
      labels: int32 (n,).
      valid: bool (n,); False for padding, and for broken images of an evaluation.
      counts: int32 (2,), numbers of images that could not be decoded, and of images whose
        metadata was ignored.
    """

    images: UInt8[np.ndarray, "n height width channels"]
    labels: Int32[np.ndarray, " n"]
    valid: Bool[np.ndarray, " n"]
    counts: Int32[np.ndarray, " kinds"]

    @classmethod
    def empty(cls, size: int, image_shape: tuple[int, int, int]) -> DecodedImages:
        """Allocates memory for `size` images."""
        return cls(
            np.empty((size, *image_shape), np.uint8),
            np.empty(size, np.int32),
            np.empty(size, bool),
            np.zeros(2, np.int32),
        )

    def copy_from(self, other: DecodedImages) -> None:
        """Copies all arrays of `other`, which must have the same shapes."""
        for field in dataclasses.fields(self):
            np.copyto(getattr(self, field.name), getattr(other, field.name))


@dataclasses.dataclass(frozen=True, eq=False)
class DecodedBatches:
    """Memory for the batches of one dispatch, with a view of it for each decode task.

    Each dispatch allocates new memory, because JAX may still use that of the previous one.

    Attributes:
      images: uint8 (batches, batch_size, height, width, channels).
      labels: int32 (batches, batch_size).
      valid: bool (batches, batch_size).
      task_outputs: views of the arrays, one for each decode task, batch by batch.
    """

    images: UInt8[np.ndarray, "batches batch_size height width channels"]
    labels: Int32[np.ndarray, "batches batch_size"]
    valid: Bool[np.ndarray, "batches batch_size"]
    task_outputs: list[DecodedImages]

    @classmethod
    def empty(
        cls, count: int, task_sizes: list[int], image_shape: tuple[int, int, int]
    ) -> DecodedBatches:
        """Allocates memory for `count` batches, each decoded in tasks of these sizes."""
        shape = count, sum(task_sizes)
        images = _allocate_aligned((*shape, *image_shape))
        labels, valid = np.empty(shape, np.int32), np.empty(shape, bool)
        ends = np.cumsum(task_sizes)
        slices = [
            (batch, slice(end - size, end))
            for batch in range(count)
            for size, end in zip(task_sizes, ends, strict=True)
        ]
        task_outputs = [
            DecodedImages(images[index], labels[index], valid[index], np.zeros(2, np.int32))
            for index in slices
        ]
        return cls(images, labels, valid, task_outputs)

    @property
    def counts(self) -> Int32[np.ndarray, " kinds"]:
        """Numbers of images that could not be decoded, and whose metadata was ignored."""
        return np.stack([output.counts for output in self.task_outputs]).sum(0, np.int32)


def _allocate_aligned(shape: tuple[int, ...]) -> UInt8[np.ndarray, "*shape"]:
    """Allocates an array that begins at a multiple of `ALIGNMENT` bytes."""
    size = math.prod(shape)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % ALIGNMENT
    return memory[offset : offset + size].reshape(shape)


class SharedBuffers:
    """A ring of buffers in shared memory; the images of task n are in buffer n modulo `count`.

    One process creates the buffers and reads the tasks in order. Other processes, to which the
    object is pickled, write them. Reusing the memory saves allocations and copies.
    """

    def __init__(
        self, count: int, max_task_size: int, image_shape: tuple[int, int, int], start: int = 0
    ):
        """Creates the shared memory.

        Args:
          count: number of buffers.
          max_task_size: number of images that a buffer can hold.
          image_shape: (height, width, channels) of an image.
          start: number of the first task.

        Raises:
          DatasetError: there is not enough shared memory.
        """
        self._count, self._max_task_size, self._image_shape = count, max_task_size, image_shape
        self._memory = AnonymousMemory(self._layout()[1])
        self._array("num_read")[0] = start

    def _layout(self) -> tuple[dict[str, tuple[int, tuple[int, ...], type]], int]:
        """Returns (offset, shape, dtype) of each array, and the total size; sizes in bytes."""
        shape = self._count, self._max_task_size
        arrays: dict[str, tuple[tuple[int, ...], type]] = {
            "num_read": ((1,), np.int64),  # tasks before this number have been read
            "images": ((*shape, *self._image_shape), np.uint8),
            "labels": (shape, np.int32),
            "valid": (shape, np.bool_),
            "counts": ((self._count, 2), np.int32),
        }
        layout, end = {}, 0
        for name, (array_shape, dtype) in arrays.items():
            layout[name] = end, array_shape, dtype
            end += -(-math.prod(array_shape) * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT
        return layout, end

    def _array(self, name: str) -> np.ndarray:
        """Returns a view that must not be kept: shared memory with views cannot be closed."""
        offset, shape, dtype = self._layout()[0][name]
        return np.ndarray(shape, dtype, self._memory.buffer, offset)

    def wait_for_buffer(self, task: int, size: int) -> DecodedImages:
        """Waits for the buffer of task number `task`, and returns its part for `size` images."""
        while task - self._count >= self._array("num_read")[0]:
            time.sleep(POLL_SECONDS)
        buffer = task % self._count
        return DecodedImages(
            images=self._array("images")[buffer, :size],
            labels=self._array("labels")[buffer, :size],
            valid=self._array("valid")[buffer, :size],
            counts=self._array("counts")[buffer],
        )

    def read_into(self, task: int, out: DecodedImages) -> None:
        """Copies the images of task number `task`, which must be written, and frees its buffer."""
        out.copy_from(self.wait_for_buffer(task, len(out.labels)))
        self._array("num_read")[0] = task + 1

    def free_all(self) -> None:
        """Frees all buffers, so that no process waits for one any more."""
        self._array("num_read")[0] = np.iinfo(np.int64).max

    def close(self) -> None:
        """Frees the shared memory; only for its creator, after all other processes have ended."""
        self._memory.close()
