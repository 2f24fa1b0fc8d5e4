"""A folder of class folders: DIR/SPLIT/CLASS/*.jpg, the layout of TFDS's ImageFolder.

`dataset.name = 'folder'` with `dataset.data_dir = DIR`; nothing is converted or copied.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from PIL import Image

from flaxres.data.decode import decode
from flaxres.data.source import Sources, Subset, parse_split
from flaxres.errors import DatasetError

SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """The image files of one split.

    Attributes:
      directory: of the split.
      files: bytes (n,), their names in there, 'CLASS/NAME': an array, as a million of paths would
        take seconds to be sent to a worker, and much memory there.
      own_labels: int32 (n,), the number of the class folder that each lies in.
    """

    directory: str
    files: np.ndarray
    own_labels: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """See `flaxres.data.source.Source`."""
        file = self.describe(index)
        try:
            data = Path(file).read_bytes()
        except OSError as error:
            raise DatasetError(f"{file} cannot be read: {error.strerror}") from error
        return decode(data, file), int(self.own_labels[index])

    def describe(self, index: int) -> str:
        """See there."""
        return os.path.join(self.directory, os.fsdecode(self.files[index]))

    def labels(self) -> np.ndarray:
        """See there."""
        return self.own_labels


def open_folder(
    data_dir: str | None, train_split: str, test_split: str, validation_split: str | None = None
) -> Sources:
    """The splits of a folder. Their files have a fixed order that mixes the classes.

    Args:
      data_dir: the folder.
      train_split: name of a folder in it, or a part of it such as 'train[:80%]'.
      test_split: likewise.
      validation_split: likewise; None for no such split.

    Raises:
      DatasetError: there is no such folder or split, no image in a class, or classes that differ
        between the splits.
    """
    if data_dir is None:
        raise DatasetError(
            "data set 'folder' needs --config.dataset.data_dir=DIR with DIR/train/CLASS/*.jpg"
        )
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root}; it must hold SPLIT/CLASS/*.jpg")
    names = _folders(root)
    classes = {name: _folders(root / name) for name in names}
    wanted = [spec for spec in (train_split, test_split, validation_split) if spec]
    for spec in wanted:
        name = spec.partition("[")[0]
        if name not in names:
            raise DatasetError(
                f"folder {root} must hold a folder {name!r} with class folders, for the split "
                f"{spec!r}; it holds {', '.join(names) or 'no folders'}"
            )
        if not classes[name]:
            raise DatasetError(f"{root / name} holds no class folders; it must hold CLASS/*.jpg")
    splits = {name: _read(root / name, classes[name]) for name in names if _used(name, wanted)}
    sizes = {name: len(split) for name, split in splits.items()}
    used = [parse_split(spec, sizes, f"folder {root}") for spec in wanted]
    first = used[0][0]
    for name, _ in used:
        differing = sorted(set(classes[first]) ^ set(classes[name]))
        if differing:
            raise DatasetError(
                f"{root / first} and {root / name} must have the same class folders, but "
                f"{', '.join(differing)} {'is' if len(differing) == 1 else 'are'} in one alone"
            )
    found = [Subset(splits[name], np.arange(len(splits[name]))[rows]) for name, rows in used]
    train, test, *validation = found
    return Sources(f"folder {root.name}", train, test, tuple(classes[first]), 3, *validation)


def _used(name: str, specs: list[str]) -> bool:
    return any(spec.partition("[")[0] == name for spec in specs)


def _folders(directory: Path) -> list[str]:
    """Names of the folders in it, but for hidden ones."""
    names = (path.name for path in directory.iterdir() if path.is_dir())
    return sorted(name for name in names if not name.startswith("."))


def _read(split: Path, classes: list[str]) -> FolderSource:
    """All files of a split, in a random order that is always the same."""
    files: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        with os.scandir(split / name) as entries:
            names = (entry.name for entry in entries)
            own = sorted(file for file in names if file.lower().endswith(SUFFIXES))
        if not own:
            raise DatasetError(f"class folder {split / name} holds no .jpg, .jpeg or .png file")
        files += [os.fsencode(f"{name}/{file}") for file in own]
        labels += [label] * len(own)
    order = np.random.default_rng(0).permutation(len(files))
    return FolderSource(str(split), np.array(files)[order], np.array(labels, np.int32)[order])
