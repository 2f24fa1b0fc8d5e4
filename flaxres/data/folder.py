"""Data sets in folders: DIR/SPLIT/CLASS/*.jpg, the layout of TFDS's ImageFolder.

Set `dataset.name = 'folder'` and `dataset.data_dir = DIR`. Nothing is converted or copied.
`flaxres.data.folder_listing` tells which files are images, and reports the others.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Shaped
from PIL import Image

from flaxres.data.decode import EncodedImage
from flaxres.data.fingerprint import (
    MAX_LISTED_FILES,
    FileList,
    Fingerprint,
    SplitFingerprint,
    file_sizes,
)
from flaxres.data.folder_listing import (
    MAX_NAMES,
    SkippedEntries,
    SkipReason,
    list_folders,
    list_image_files,
)
from flaxres.data.image_files import read_image_file
from flaxres.data.notices import print_notice
from flaxres.data.source import Sources, Subset, parse_split
from flaxres.errors import DatasetError, escape_unprintable, first_few
from flaxres.suggestions import did_you_mean


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """The image files of one split.

    Attributes:
      directory: directory of the split.
      files: bytes (n,), paths CLASS/NAME in `directory`. One array can be sent to a worker in much
        less time and memory than a list of a million paths.
      label_array: int32 (n,), index of the class folder of each file.
    """

    directory: str
    files: Shaped[np.ndarray, " n"]
    label_array: Int32[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.files)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Returns image `index`, decoded in its original size, and its label.

        Raises:
          BrokenImageError: the file cannot be read or decoded.
          DatasetError: the machine or its file server failed.
        """
        image, label = self.read(index)
        return image.decode(), label

    def read(self, index: int) -> tuple[EncodedImage, int]:
        """Returns image `index`, not decoded yet, and its label."""
        file = self.describe(index)
        return EncodedImage(read_image_file(file), file), int(self.label_array[index])

    def describe(self, index: int) -> str:
        """Returns the path of image `index`."""
        return os.path.join(self.directory, os.fsdecode(self.files[index]))

    def labels(self) -> Int32[np.ndarray, " images"]:
        """Returns all labels."""
        return self.label_array

    def fingerprint(self, classes: Sequence[str], keep_listing: bool) -> SplitFingerprint:
        """Returns the names and sizes of the files of each class.

        Args:
          classes: names of the class folders, ordered by label.
          keep_listing: if True, the fingerprint holds every name and size, not only a digest.
        """
        order = np.argsort(self.label_array, kind="stable")
        ends = np.cumsum(np.bincount(self.label_array, minlength=len(classes)))
        files = {}
        for name, rows in zip(classes, np.split(order, ends[:-1]), strict=True):
            prefix = len(os.fsencode(name)) + 1
            names = [path[prefix:] for path in self.files[rows].tolist()]
            sizes = file_sizes(os.path.join(self.directory, name), names)
            files[escape_unprintable(name)] = FileList.of(sizes, keep_listing)
        return SplitFingerprint(len(self), files)


def folder_fingerprint(splits: Mapping[str, FolderSource], classes: Sequence[str]) -> Fingerprint:
    """Returns the fingerprint of a folder: names and sizes of the files of each class.

    Args:
      splits: the splits that are used, by name.
      classes: names of the class folders, ordered by label.
    """
    keep_listing = sum(map(len, splits.values())) <= MAX_LISTED_FILES
    return Fingerprint(
        "folder",
        tuple(map(escape_unprintable, classes)),
        {name: split.fingerprint(classes, keep_listing) for name, split in splits.items()},
    )


def open_folder(
    data_dir: str | os.PathLike[str] | None,
    train_split: str,
    test_split: str,
    validation_split: str | None = None,
) -> Sources:
    """Opens the splits of a folder. Their files have a fixed order that mixes the classes.

    Args:
      data_dir: directory that contains SPLIT/CLASS/*.jpg.
      train_split: name of a split, or a slice such as 'train[:80%]'.
      test_split: the test split, in the same syntax.
      validation_split: the validation split, in the same syntax (default: none).

    Raises:
      DatasetError: the directory or a split does not exist or cannot be read, a class has no
        images, or the splits have different classes.
    """
    if data_dir is None:
        raise DatasetError(
            "data set 'folder' needs --config.dataset.data_dir=DIR with DIR/train/CLASS/*.jpg"
        )
    root = Path(os.path.expanduser(data_dir))
    if not os.path.isdir(root):
        raise DatasetError(f"folder {root} does not exist; it must contain SPLIT/CLASS/*.jpg")
    specs = [spec for spec in (train_split, test_split, validation_split) if spec]
    used_names = [spec.partition("[")[0] for spec in specs]
    split_names, _ = list_folders(root)
    skipped = SkippedEntries()
    classes: dict[str, list[str]] = {}
    for spec, name in zip(specs, used_names, strict=True):
        if name not in split_names:
            raise DatasetError(
                f"folder {root} must contain a folder {name!r} with class folders for the split "
                f"{spec!r}; it contains {first_few(split_names, MAX_NAMES) or 'no folders'}"
                f"{_split_hint(root, name, split_names, used_names)}"
            )
        if name not in classes:
            classes[name] = _list_classes(root / name, skipped)
    splits = {name: _list_files(root / name, classes[name], skipped) for name in classes}
    if skipped:
        print_notice(f"Left out of {root}: {skipped}")
    sizes = {name: len(split) for name, split in splits.items()}
    slices = [parse_split(spec, sizes, f"folder {root}") for spec in specs]
    first = used_names[0]
    for name in used_names:
        only = {
            split: sorted(set(classes[split]) - set(classes[other]))
            for split, other in ((first, name), (name, first))
        }
        if any(only.values()):
            listed = [
                f"{first_few(names, MAX_NAMES)} {'is' if len(names) == 1 else 'are'} only in "
                f"{split}"
                for split, names in only.items()
                if names
            ]
            raise DatasetError(
                f"{root / first} and {root / name} must have the same class folders, but "
                f"{', '.join(listed)}"
            )
    train, test, *validation = (
        Subset(splits[name], np.arange(len(splits[name]))[rows]) for name, rows in slices
    )
    return Sources(
        f"folder {root.name}",
        train,
        test,
        tuple(classes[first]),
        3,
        validation[0] if validation else None,
        find_fingerprint=functools.partial(folder_fingerprint, splits, classes[first]),
    )


# Names of splits that can be the test split, in the order of preference.
OTHER_SPLITS = ("validation", "valid", "val", "test")


def _split_hint(
    root: Path, name: str, split_names: Sequence[str], used_names: Sequence[str]
) -> str:
    """Returns '; ' and the flag that may be meant if a folder lacks a split, or ''."""
    if root.name in used_names and (root.parent / name).is_dir():
        return f"; did you mean --config.dataset.data_dir={root.parent}?"
    if nearest := did_you_mean(name, [n for n in split_names if n not in used_names]):
        return nearest
    others = [n for n in OTHER_SPLITS if n in split_names and n not in used_names]
    if used_names.index(name) == 1 and others:
        return f"; set --config.dataset.test_split={others[0]}"
    return ""


def _list_classes(split: Path, skipped: SkippedEntries) -> list[str]:
    """Returns the sorted names of the class folders of a split."""
    classes, others = list_folders(split)
    for name in others:
        reason = SkipReason.HIDDEN if name.startswith(".") else SkipReason.BESIDE_CLASSES
        skipped.add(reason, f"{split.name}/{name}")
    if not classes:
        contents = f"{first_few(others, MAX_NAMES)}" if others else "nothing"
        raise DatasetError(
            f"{split} contains no class folders but {contents}; it must contain CLASS/*.jpg"
        )
    return classes


def _list_files(split: Path, classes: Sequence[str], skipped: SkippedEntries) -> FolderSource:
    """Lists all image files of a split, in a random but fixed order."""
    files: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        class_files = list_image_files(split, name, skipped)
        files += [os.fsencode(f"{name}/{file}") for file in class_files]
        labels += [label] * len(class_files)
    order = np.random.default_rng(0).permutation(len(files))
    return FolderSource(str(split), np.array(files)[order], np.array(labels, np.int32)[order])
