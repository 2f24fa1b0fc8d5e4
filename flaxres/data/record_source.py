"""Sources of TFDS records: images as they are encoded in ArrayRecord files, decoded with Pillow.

TFDS itself would decode with OpenCV where it is installed, and two decoders can differ in some
pixels of a JPEG.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32
from PIL import Image

from flaxres.data.decode import EncodedImage
from flaxres.data.in_memory import Example
from flaxres.errors import DatasetError, one_line
from flaxres.terminal import make_progress_bar

MIN_IMAGES_FOR_PROGRESS = 4_001  # smaller splits are read in about a second
READ_BLOCK = 1_000  # examples read between two updates of the progress bar


@runtime_checkable
class Records(Protocol):
    """TFDS's data source, whose images are left encoded."""

    def __len__(self) -> int:
        """Returns the number of records."""

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """Returns a record: its features by name."""

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Mapping[str, Any]]:
        """Returns several records in one read."""


@dataclasses.dataclass(frozen=True)
class RecordSource:
    """The records of one split.

    Attributes:
      records: TFDS's data source, with encoded images.
      name: name of the data set and split, with the directory, for messages.
      image_key: name of the image feature.
      label_key: name of the label feature.
      channels: channels of the images.
    """

    records: Records
    name: str
    image_key: str
    label_key: str
    channels: int

    def __len__(self) -> int:
        return len(self.records)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Returns image `index`, decoded in its original size, and its label."""
        image, label = self.read(index)
        return image.decode(), label

    def read(self, index: int) -> tuple[EncodedImage, int]:
        """Returns image `index`, not decoded yet, and its label."""
        return self._encoded(self.record(index), index)

    def record(self, index: int) -> Mapping[str, Any]:
        """Returns record `index`: its features by name, with the image encoded.

        Raises:
          DatasetError: the record cannot be read.
        """
        try:
            return self._check(self.records[index])
        except Exception as error:  # ArrayRecord and TFDS raise exceptions of many types
            raise damaged_error(self.name, error) from error

    def _encoded(self, record: Mapping[str, Any], index: int) -> tuple[EncodedImage, int]:
        image = EncodedImage(record[self.image_key], self.describe(index), self.channels)
        return image, int(record[self.label_key])

    def describe(self, index: int) -> str:
        """Returns the number of image `index` and the name of the split, for messages."""
        return f"image {index} of {self.name}"

    def labels(self) -> Int32[np.ndarray, " images"]:
        """Returns all labels, without decoding any image.

        Raises:
          DatasetError: a record cannot be read.
        """
        labels = np.empty(len(self), np.int32)
        for start in self._block_starts():
            records = self._read_block(start)
            labels[start : start + len(records)] = [record[self.label_key] for record in records]
        return labels

    def examples(self, image_size: tuple[int, int] | None) -> Generator[Example, None, None]:
        """Yields the index, image and label of each record, under a progress bar.

        Args:
          image_size: (height, width) that all images must have; None for images of any size.

        Raises:
          DatasetError: a record cannot be read or decoded, or has another size.
        """
        with make_progress_bar(disable=len(self) < MIN_IMAGES_FOR_PROGRESS) as bar:
            for start in bar.track(self._block_starts(), description=f"reading {self.name}"):
                for index, record in enumerate(self._read_block(start), start):
                    encoded, label = self._encoded(record, index)
                    image = encoded.decode()
                    if image_size and (image.height, image.width) != image_size:
                        raise DatasetError(
                            f"{self.describe(index)} has {image.height} x {image.width} "
                            f"pixels, not {image_size[0]} x {image_size[1]}"
                        )
                    yield index, image, label

    def _block_starts(self) -> range:
        return range(0, len(self), READ_BLOCK)

    def _read_block(self, start: int) -> Sequence[Mapping[str, Any]]:
        indices = list(range(start, min(start + READ_BLOCK, len(self))))
        try:
            records = self.records.__getitems__(indices)
            if len(records) != len(indices):
                raise ValueError(f"{len(records)} of {len(indices)} records can be read")
            return [self._check(record) for record in records]
        except Exception as error:
            raise damaged_error(self.name, error) from error

    def _check(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns a record; TFDS reads the records that a truncated shard lacks as empty ones."""
        if record[self.image_key] is None or record[self.label_key] is None:
            raise ValueError("a record has no image or no label")
        return record


def damaged_error(name: str, error: Exception) -> DatasetError:
    """Returns the error for a data set whose files cannot be read."""
    return DatasetError(
        f"data set {name} is incomplete or damaged ({one_line(error)}); delete that directory and "
        "prepare the data set again"
    )
