"""Listing of the class folders and image files of a split, and of what else lies beside them.

An image file has a name that ends in .jpg, .jpeg or .png, in lower or upper case, and lies directly
in a class folder. If it cannot be read or decoded, `dataset.broken_images` decides what happens;
empty files and symbolic links that lead nowhere are such files. Everything else is left out and
counted: hidden files (among them the ._NAME.jpg that macOS adds to NAME.jpg), files with other
names, folders in class folders, pipes and devices, and files beside class folders.
"""

from __future__ import annotations

import os
from collections import Counter

from flaxres.errors import DatasetError

SUFFIXES = (".jpg", ".jpeg", ".png")
SUFFIXES_TEXT = ".jpg, .jpeg or .png"
MAX_NAMES = 3  # names of each kind in a message

HIDDEN = "hidden"
OTHER_NAME = f"without {SUFFIXES_TEXT} at the end"
FOLDER = "folders within class folders"
SPECIAL = "pipes, sockets or devices"
BESIDE_CLASSES = "beside class folders"


class LeftOut:
    """Numbers and first names of what is left out of a split, by reason."""

    def __init__(self) -> None:
        """Creates an empty list."""
        self._counts: Counter[str] = Counter()
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Adds a file or folder.

        Args:
          reason: why it is left out, such as `HIDDEN`.
          name: its path in the folder of the data set.
        """
        self._counts[reason] += 1
        names = self._names.setdefault(reason, [])
        if len(names) < MAX_NAMES:
            names.append(name)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        """Returns numbers and names, such as '1 hidden (train/a/._0.jpg), 9 beside ...'."""
        parts = []
        for reason, count in self._counts.items():
            names = ", ".join(self._names[reason]) + ", ..." * (count > MAX_NAMES)
            parts.append(f"{count:,} {reason} ({names})")
        return "; ".join(parts)


def list_folders(directory: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
    """Returns the sorted names of the visible folders in a directory, and of its other entries.

    Links to folders are folders.

    Raises:
      DatasetError: the directory cannot be read.
    """
    folders: list[str] = []
    others: list[str] = []
    for entry in _scan(directory):
        is_folder = not entry.name.startswith(".") and _is_folder(entry)
        (folders if is_folder else others).append(entry.name)
    return folders, others


def list_image_files(
    split: str | os.PathLike[str], class_name: str, left_out: LeftOut
) -> list[str]:
    """Returns the sorted names of the image files in a class folder; opens none of them.

    Args:
      split: directory of the split.
      class_name: name of the class folder.
      left_out: receives everything else in the class folder.

    Raises:
      DatasetError: the class folder cannot be read, or has no image files.
    """
    directory = os.path.join(split, class_name)
    files: list[str] = []
    folders: list[str] = []
    for entry in _scan(directory):
        name = entry.name
        if name.startswith("."):
            reason = HIDDEN
        elif entry.is_dir(follow_symlinks=False):
            folders.append(name)
            reason, name = FOLDER, f"{name} with {_count_images(entry.path):,} images"
        elif not name.lower().endswith(SUFFIXES):
            reason = OTHER_NAME
        # The target of a link is not looked up here, which would take long on a file server.
        elif entry.is_symlink() or entry.is_file(follow_symlinks=False):
            files.append(name)
            continue
        else:
            reason = SPECIAL
        left_out.add(reason, os.path.join(os.path.basename(split), class_name, name))
    if not files:
        hint = f"; move the files of its folder {folders[0]} there" if folders else ""
        raise DatasetError(f"class folder {directory} contains no {SUFFIXES_TEXT} file{hint}")
    return files


def _scan(directory: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """Returns the entries of a directory, sorted by name."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DatasetError(f"folder {directory} cannot be read: {error.strerror}") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _count_images(directory: str) -> int:
    """Returns the number of files with the name of an image in a directory and its folders."""
    return sum(
        name.lower().endswith(SUFFIXES) for _, _, names in os.walk(directory) for name in names
    )
