"""Memory for decoded images: of this process, or shared with the processes that decode."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np

from flaxres.errors import DatasetError

ALIGNMENT = 64  # bytes; JAX takes host memory for an array of a CPU as it is only at multiples
POLL_SECONDS = 0.001  # between two looks at whether a slot is free
SHARED_MEMORY = Path("/dev/shm")  # where Linux has it


@dataclasses.dataclass(frozen=True, eq=False)
class DecodedImages:
    """Decoded images, or memory for them.

    Attributes:
      images: uint8 (n, height, width, channels).
      labels: int32 (n,).
      valid: bool (n,); False for none, and for a broken image of an evaluation.
      broken: int32 (1,), images that could not be decoded.
    """

    images: np.ndarray
    labels: np.ndarray
    valid: np.ndarray
    broken: np.ndarray

    @classmethod
    def empty(cls, size: int, image_shape: tuple[int, int, int]) -> DecodedImages:
        """Memory for so many images."""
        return cls(
            np.empty((size, *image_shape), np.uint8),
            np.empty(size, np.int32),
            np.empty(size, bool),
            np.zeros(1, np.int32),
        )

    def copy_from(self, other: DecodedImages) -> None:
        """Copies images of the same number and shape."""
        for field in dataclasses.fields(self):
            np.copyto(getattr(self, field.name), getattr(other, field.name))


@dataclasses.dataclass(frozen=True, eq=False)
class DecodedBatches:
    """Memory for the batches of one dispatch, and views of it for the parts they are decoded in.

    New for each dispatch, as JAX may go on using it.

    Attributes:
      images: uint8 (batches, n, height, width, channels).
      labels: int32 (batches, n).
      valid: bool (batches, n).
      parts: of one batch after another.
    """

    images: np.ndarray
    labels: np.ndarray
    valid: np.ndarray
    task_outputs: list[DecodedImages]

    @classmethod
    def empty(
        cls, count: int, sizes: list[int], image_shape: tuple[int, int, int]
    ) -> DecodedBatches:
        """Memory for `count` batches, each in parts of these sizes."""
        own = count, sum(sizes)
        images = _aligned((*own, *image_shape))
        labels, valid = np.empty(own, np.int32), np.empty(own, bool)
        ends = np.cumsum(sizes)
        places = [
            (n, slice(end - size, end))
            for n in range(count)
            for size, end in zip(sizes, ends, strict=True)
        ]
        parts = [
            DecodedImages(images[place], labels[place], valid[place], np.zeros(1, np.int32))
            for place in places
        ]
        return cls(images, labels, valid, parts)

    @property
    def broken(self) -> int:
        """Images that could not be decoded."""
        return sum(int(part.broken[0]) for part in self.parts)


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Bytes that begin at a multiple of `ALIGNMENT`."""
    size = math.prod(shape)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + size].reshape(shape)


class SharedBuffers:
    """Memory shared by processes, used again and again: part n of a stream is in slot n modulo all.

    One process makes it and takes the parts in turn; others, to which it can be sent, fill it. As
    the memory stays the same, no time goes into asking the system for it, nor into copies.
    """

    def __init__(self, count: int, size: int, image_shape: tuple[int, int, int], start: int = 0):
        """Makes `count` slots for up to `size` images; the first part is number `start`.

        Raises:
          DatasetError: there is not so much shared memory.
        """
        self._count, self._size, self._shape = count, size, image_shape
        _check_room(self._layout()[1])
        self._memory = shared_memory.SharedMemory(create=True, size=self._layout()[1])
        self._array("taken")[0] = start

    def _layout(self) -> tuple[dict[str, tuple[int, tuple[int, ...], type]], int]:
        """Of each array the first byte, shape and kind; and the bytes of all."""
        own = self._count, self._size
        arrays: dict[str, tuple[tuple[int, ...], type]] = {
            "taken": ((1,), np.int64),  # the parts before this one have been
            "images": ((*own, *self._shape), np.uint8),
            "labels": (own, np.int32),
            "valid": (own, np.bool_),
            "broken": ((self._count, 1), np.int32),
        }
        layout, end = {}, 0
        for name, (shape, kind) in arrays.items():
            layout[name] = end, shape, kind
            end += -(-math.prod(shape) * np.dtype(kind).itemsize // ALIGNMENT) * ALIGNMENT
        return layout, end

    def _array(self, name: str) -> np.ndarray:
        """A view that must not be kept: memory with views on it cannot be given back."""
        begin, shape, kind = self._layout()[0][name]
        return np.ndarray(shape, kind, self._memory.buf, begin)

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self._memory.name, "of": (self._count, self._size, self._shape)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._count, self._size, self._shape = state["of"]
        self._memory = shared_memory.SharedMemory(state["name"])

    def slot(self, number: int, size: int) -> DecodedImages:
        """Where part `number` goes, of `size` images; waits until the one before it was taken."""
        while number - self._count >= self._array("taken")[0]:
            time.sleep(POLL_SECONDS)
        slot = number % self._count
        return DecodedImages(
            *(self._array(name)[slot, :size] for name in ("images", "labels", "valid")),
            self._array("broken")[slot],
        )

    def take(self, number: int, out: DecodedImages) -> None:
        """Copies part `number`, which has been filled, and gives its slot back."""
        out.copy_from(self.slot(number, len(out.labels)))
        self._array("taken")[0] = number + 1

    def release(self) -> None:
        """Has nobody wait for a free slot any more, whatever is in it."""
        self._array("taken")[0] = np.iinfo(np.int64).max

    def close(self) -> None:
        """Gives the memory back; for who made it, when nobody else uses it."""
        self._memory.close()
        self._memory.unlink()


def _check_room(size: int) -> None:
    """Checks that so many bytes can be shared, since a process that uses more is killed.

    Raises:
      DatasetError: they cannot.
    """
    if not SHARED_MEMORY.is_dir():
        return
    found = os.statvfs(SHARED_MEMORY)
    if (free := found.f_bavail * found.f_frsize) < size:
        raise DatasetError(
            f"{size / 2**20:,.0f} MiB of {SHARED_MEMORY} are needed for decoded images, and "
            f"{free / 2**20:,.0f} are free; give it more (docker run --shm-size), or choose a "
            "smaller --config.dataset.prefetch or fewer --config.dataset.workers (0: threads, "
            "which need none)"
        )
