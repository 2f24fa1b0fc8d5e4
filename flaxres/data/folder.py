"""Data sets in folders: DIR/SPLIT/CLASS/*.jpg, the layout of TFDS's ImageFolder.

Set `dataset.name = 'folder'` and `dataset.data_dir = DIR`. Nothing is converted or copied.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Shaped
from PIL import Image

from flaxres.data.decode import decode
from flaxres.data.source import Sources, Subset, parse_split
from flaxres.errors import DatasetError

SUFFIXES = (".jpg", ".jpeg", ".png")


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
          BrokenImageError: the image cannot be decoded.
          DatasetError: the file cannot be read.
        """
        file = self.describe(index)
        try:
            data = Path(file).read_bytes()
        except OSError as error:
            raise DatasetError(f"{file} cannot be read: {error.strerror}") from error
        return decode(data, file), int(self.label_array[index])

    def describe(self, index: int) -> str:
        """Returns the path of image `index`."""
        return os.path.join(self.directory, os.fsdecode(self.files[index]))

    def labels(self) -> Int32[np.ndarray, " images"]:
        """Returns all labels."""
        return self.label_array


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
      DatasetError: the directory or a split does not exist, a class has no images, or the splits
        have different classes.
    """
    if data_dir is None:
        raise DatasetError(
            "data set 'folder' needs --config.dataset.data_dir=DIR with DIR/train/CLASS/*.jpg"
        )
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise DatasetError(f"folder {root} does not exist; it must contain SPLIT/CLASS/*.jpg")
    classes = {name: _subfolders(root / name) for name in _subfolders(root)}
    specs = [spec for spec in (train_split, test_split, validation_split) if spec]
    used_names = [spec.partition("[")[0] for spec in specs]
    for spec, name in zip(specs, used_names, strict=True):
        if name not in classes:
            raise DatasetError(
                f"folder {root} must contain a folder {name!r} with class folders for the split "
                f"{spec!r}; it contains {', '.join(classes) or 'no folders'}"
            )
        if not classes[name]:
            raise DatasetError(
                f"{root / name} contains no class folders; it must contain CLASS/*.jpg"
            )
    splits = {
        name: _list_files(root / name, classes[name]) for name in classes if name in used_names
    }
    sizes = {name: len(split) for name, split in splits.items()}
    slices = [parse_split(spec, sizes, f"folder {root}") for spec in specs]
    first = used_names[0]
    for name in used_names:
        differing = sorted(set(classes[first]) ^ set(classes[name]))
        if differing:
            raise DatasetError(
                f"{root / first} and {root / name} must have the same class folders, but "
                f"{', '.join(differing)} {'is' if len(differing) == 1 else 'are'} in only one of "
                "them"
            )
    train, test, *validation = (
        Subset(splits[name], np.arange(len(splits[name]))[rows]) for name, rows in slices
    )
    return Sources(f"folder {root.name}", train, test, tuple(classes[first]), 3, *validation)


def _subfolders(directory: Path) -> list[str]:
    """Returns the sorted names of the folders in a directory, without hidden ones."""
    names = (path.name for path in directory.iterdir() if path.is_dir())
    return sorted(name for name in names if not name.startswith("."))


def _list_files(split: Path, classes: list[str]) -> FolderSource:
    """Lists all image files of a split, in a random but fixed order."""
    files: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        with os.scandir(split / name) as entries:
            names = (entry.name for entry in entries)
            class_files = sorted(file for file in names if file.lower().endswith(SUFFIXES))
        if not class_files:
            raise DatasetError(f"class folder {split / name} contains no .jpg, .jpeg or .png file")
        files += [os.fsencode(f"{name}/{file}") for file in class_files]
        labels += [label] * len(class_files)
    order = np.random.default_rng(0).permutation(len(files))
    return FolderSource(str(split), np.array(files)[order], np.array(labels, np.int32)[order])
