"""Sources: splits whose labeled images are loaded one by one.

Sources are sent to worker processes, so they open their files at the first read.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int32, UInt8
from PIL import Image

from flaxres.data.decode import EncodedImage
from flaxres.data.fingerprint import Fingerprint, unknown_data
from flaxres.errors import DatasetError, first_few
from flaxres.suggestions import did_you_mean

MAX_NAMES = 20  # classes that a message lists


@runtime_checkable
class Source(Protocol):
    """A split whose images are loaded on demand; can be pickled."""

    def __len__(self) -> int:
        """Returns the number of images."""

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Returns image `index`, decoded in its original size, and its label.

        Raises:
          BrokenImageError: the image cannot be decoded.
          DatasetError: the image cannot be read.
        """

    def read(self, index: int) -> tuple[EncodedImage | Image.Image, int]:
        """Returns image `index`, decoded only if it is in memory, and its label.

        Raises:
          BrokenImageError: the file cannot be read.
          DatasetError: the machine or its file server failed.
        """

    def describe(self, index: int) -> str:
        """Returns the file or record of image `index`, for messages."""

    def labels(self) -> Int32[np.ndarray, " images"]:
        """Returns all labels, without decoding any image."""


@dataclasses.dataclass(frozen=True)
class Sources:
    """The splits of a data set as sources.

    Attributes:
      name: name of the data set.
      train: training split.
      test: test split.
      class_names: name of the class of each label.
      channels: channels of an image: 1, 3 or 4.
      validation: validation split, or None.
      find_fingerprint: returns the fingerprint of the whole data set, also after `select_classes`.
    """

    name: str
    train: Source
    test: Source
    class_names: tuple[str, ...]
    channels: int
    validation: Source | None = None
    find_fingerprint: Callable[[], Fingerprint] = unknown_data

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @functools.cached_property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of all images of the data set; the sizes of a million files take seconds."""
        return self.find_fingerprint()

    def select_classes(self, classes: Sequence[str]) -> Sources:
        """Returns only the images of `classes`, relabeled 0, 1, ... in that order.

        Args:
          classes: names of the classes; if empty, all images are kept with their labels.

        Raises:
          DatasetError: a class does not exist, or there are fewer than two different classes.
        """
        if not classes:
            return self
        for name in classes:
            if name not in self.class_names:
                raise DatasetError(
                    f"dataset.classes must be classes of {self.name} "
                    f"({first_few(self.class_names, MAX_NAMES)}), got {name!r}"
                    f"{did_you_mean(name, self.class_names)}"
                )
        if len(set(classes)) < max(2, len(classes)):
            raise DatasetError(
                f"dataset.classes must be two or more different classes, got {', '.join(classes)}"
            )
        labels = [self.class_names.index(name) for name in classes]
        selected = dataclasses.replace(
            self,
            class_names=tuple(classes),
            train=Subset.with_labels(self.train, labels),
            test=Subset.with_labels(self.test, labels),
        )
        if self.validation is None:
            return selected
        return dataclasses.replace(selected, validation=Subset.with_labels(self.validation, labels))


@dataclasses.dataclass(frozen=True)
class Subset:
    """Selected images of a source, optionally relabeled.

    Attributes:
      source: source of the images.
      rows: integers (n,), indices of the images in `source`.
      new_labels: new label of each label in `source`; None keeps the labels.
    """

    source: Source
    rows: Int[np.ndarray, " n"]
    new_labels: dict[int, int] | None = None

    @classmethod
    def with_labels(cls, source: Source, labels: Sequence[int]) -> Subset:
        """Selects the images with one of `labels`, which become 0, 1, ... in that order."""
        rows = np.flatnonzero(np.isin(source.labels(), labels))
        return cls(source, rows, {label: new for new, label in enumerate(labels)})

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Returns image `index` and its label."""
        image, label = self.source.load(int(self.rows[index]))
        return image, self._new_label(label)

    def read(self, index: int) -> tuple[EncodedImage | Image.Image, int]:
        """Returns image `index`, decoded only if it is in memory, and its label."""
        image, label = self.source.read(int(self.rows[index]))
        return image, self._new_label(label)

    def describe(self, index: int) -> str:
        """Returns the file or record of image `index`, for messages."""
        return self.source.describe(int(self.rows[index]))

    def labels(self) -> Int32[np.ndarray, " images"]:
        """Returns all labels."""
        labels = self.source.labels()[self.rows]
        return np.array([self._new_label(int(label)) for label in labels], np.int32)

    def _new_label(self, label: int) -> int:
        return label if self.new_labels is None else self.new_labels[label]


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """A source whose images are in memory.

    Attributes:
      name: name of the data set and split.
      images: uint8 (n, height, width, 1 or 3).
      label_array: int32 (n,).
    """

    name: str
    images: UInt8[np.ndarray, "n height width channels"]
    label_array: Int32[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.label_array)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Returns image `index` and its label."""
        image = self.images[index]
        if image.shape[-1] == 1:
            image = image[..., 0]
        return Image.fromarray(image), int(self.label_array[index])

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Returns image `index` and its label, as `load` does."""
        return self.load(index)

    def describe(self, index: int) -> str:
        """Returns a description of image `index`, for messages."""
        return f"image {index} of {self.name}"

    def labels(self) -> Int32[np.ndarray, " images"]:
        """Returns all labels."""
        return self.label_array


def parse_split(spec: str, sizes: Mapping[str, int], name: str) -> tuple[str, slice]:
    """Parses a split such as 'train', 'train[:80%]' or 'train[1200:]'.

    Args:
      spec: one split, in TFDS syntax.
      sizes: number of images of each split of the data set.
      name: name of the data set, for messages.

    Returns:
      The name of the split, and the slice of its images.

    Raises:
      DatasetError: the split does not exist, or the slice is empty.
    """
    match = re.fullmatch(r"(\w+)(?:\[(-?\d{1,18}%?)?:(-?\d{1,18}%?)?\])?", spec)
    if not match or match[1] not in sizes:
        known = ", ".join(f"{key} ({size:,})" for key, size in sizes.items())
        split, bracket, part = spec.partition("[")
        hint = did_you_mean(split, sizes, "'{}" + bracket + part + "'") if "{" not in part else ""
        raise DatasetError(
            f"data set {name!r} has the splits {known}, and slices such as 'train[:80%]'; got "
            f"{spec!r}{hint}"
        )
    size = sizes[match[1]]

    def position(text: str | None) -> int | None:
        if text is None:
            return None
        return round(int(text[:-1]) / 100 * size) if text.endswith("%") else int(text)

    rows = slice(*slice(position(match[2]), position(match[3])).indices(size))
    if not len(range(size)[rows]):
        raise DatasetError(f"split {spec!r} of data set {name!r} is empty")
    return match[1], rows


def check_label(label: int, num_classes: int, description: str) -> None:
    """Checks that a label is in 0..num_classes-1.

    Args:
      label: label of an image.
      num_classes: number of classes.
      description: file or record of the image (`Source.describe`), for the message.

    Raises:
      DatasetError: there is no class with this label.
    """
    if not 0 <= label < num_classes:
        raise DatasetError(
            f"{description} has the label {label}; there are {num_classes} classes, so it must be "
            f"from 0 to {num_classes - 1}"
        )


def check_image_size(size: Sequence[int], expected: tuple[int, int], description: str) -> None:
    """Checks that an image has the (height, width) of the first image.

    Args:
      size: (height, width) of the image, after it was resized or cropped.
      expected: (height, width) of the first image.
      description: file or record of the image (`Source.describe`), for the message.

    Raises:
      DatasetError: the image has another size.
    """
    if tuple(size) != expected:
        raise DatasetError(
            f"{description} has {size[0]} x {size[1]} pixels, but the first image has "
            f"{expected[0]} x {expected[1]}; choose one size for all, e.g. "
            "--config.dataset.image_size=224"
        )
