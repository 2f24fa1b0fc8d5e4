"""Images with labels that are read one by one: what data sets are made of before they are arrays.

Sources can be sent to worker processes, so they open their files when they first read.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from flaxres.errors import DatasetError


@runtime_checkable
class Source(Protocol):
    """A split whose images are read when they are needed; can be pickled."""

    def __len__(self) -> int:
        """Number of images."""

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Image `index`, decoded, in its own size, and its label.

        Raises:
          BrokenImageError: it cannot be decoded.
          DatasetError: it cannot be read.
        """

    def describe(self, index: int) -> str:
        """What to call image `index` in a message: its file, or its record."""

    def labels(self) -> np.ndarray:
        """int32 (n,), all labels, without decoding an image."""


@dataclasses.dataclass(frozen=True)
class Sources:
    """The splits of a data set as sources, and what they share.

    Attributes:
      name: of the data set.
      train: for training.
      test: for testing.
      class_names: by label.
      channels: of an image, 1, 3 or 4.
      validation: or None.
    """

    name: str
    train: Source
    test: Source
    class_names: tuple[str, ...]
    channels: int
    validation: Source | None = None

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.class_names)

    def select_classes(self, classes: Sequence[str]) -> Sources:
        """The images of `classes` alone, which get the labels 0, 1, ... in that order.

        Raises:
          DatasetError: one of them does not exist, or there are fewer than two.
        """
        if not classes:
            return self
        for name in classes:
            if name not in self.class_names:
                raise DatasetError(
                    f"dataset.classes must be of {self.name}'s {', '.join(self.class_names)}; "
                    f"got {name!r}"
                )
        if len(set(classes)) < max(2, len(classes)):
            raise DatasetError(
                f"dataset.classes must be two or more different ones, got {', '.join(classes)}"
            )
        old = [self.class_names.index(name) for name in classes]
        splits = {
            name: None if split is None else Subset.of_labels(split, old)
            for name, split in (
                *(("train", self.train), ("test", self.test), ("validation", self.validation)),
            )
        }
        return dataclasses.replace(self, class_names=tuple(classes), **splits)


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some images of a source, with other labels: a source too."""

    source: Source
    rows: np.ndarray
    new_labels: dict[int, int] | None = None

    @classmethod
    def of_labels(cls, source: Source, old: Sequence[int]) -> Subset:
        """The images that have one of the labels `old`, which become 0, 1, ..."""
        rows = np.flatnonzero(np.isin(source.labels(), old))
        return cls(source, rows, {label: new for new, label in enumerate(old)})

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """See `Source`."""
        image, label = self.source.load(int(self.rows[index]))
        return image, self._new(label)

    def describe(self, index: int) -> str:
        """See `Source`."""
        return self.source.describe(int(self.rows[index]))

    def labels(self) -> np.ndarray:
        """See `Source`."""
        own = self.source.labels()[self.rows]
        return np.array([self._new(int(label)) for label in own], np.int32)

    def _new(self, label: int) -> int:
        return label if self.new_labels is None else self.new_labels[label]


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Images in memory.

    Attributes:
      name: of the data set and split.
      images: uint8 (n, height, width, 1 or 3).
      own_labels: int32 (n,).
    """

    name: str
    images: np.ndarray
    own_labels: np.ndarray

    def __len__(self) -> int:
        return len(self.own_labels)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """See `Source`."""
        image = self.images[index]
        return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), int(
            self.own_labels[index]
        )

    def describe(self, index: int) -> str:
        """See `Source`."""
        return f"image {index} of {self.name}"

    def labels(self) -> np.ndarray:
        """See `Source`."""
        return self.own_labels


def parse_split(spec: str, sizes: Mapping[str, int], name: str) -> tuple[str, slice]:
    """The split and the rows that a spec such as 'train', 'train[:80%]' or 'train[1200:]' names.

    Args:
      spec: in TFDS's syntax, of one split.
      sizes: images of each split.
      name: of the data set, for the message.

    Raises:
      DatasetError: there is no such split, or nothing in it.
    """
    match = re.fullmatch(r"(\w+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", spec)
    if not match or match[1] not in sizes:
        known = ", ".join(f"{key} ({size:,})" for key, size in sizes.items())
        raise DatasetError(
            f"data set {name!r} has the splits {known}, or parts such as 'train[:80%]'; got "
            f"{spec!r}"
        )
    size = sizes[match[1]]

    def position(text: str | None) -> int | None:
        if text is None or not text.endswith("%"):
            return text and int(text)
        return round(int(text[:-1]) / 100 * size)

    rows = slice(*slice(position(match[2]), position(match[3])).indices(size))
    if not len(range(size)[rows]):
        raise DatasetError(f"split {spec!r} of data set {name!r} is empty")
    return match[1], rows


def check_label(label: int, num_classes: int, where: str) -> None:
    """Checks a label.

    Args:
      label: of an image.
      num_classes: that there are.
      where: what to call the image; see `Source.where`.

    Raises:
      DatasetError: there is no such class.
    """
    if not 0 <= label < num_classes:
        raise DatasetError(
            f"{where} has the label {label}; there are {num_classes} classes, so it must be from 0 "
            f"to {num_classes - 1}"
        )
