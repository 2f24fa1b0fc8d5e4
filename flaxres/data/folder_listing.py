"""Image files and class folders of a split, and a count of everything else.

An image file has a name that ends in .jpg, .jpeg or .png, in lower or upper case, and lies directly
in a class folder. `dataset.broken_images` decides what happens if it cannot be read or decoded;
empty files and symbolic links that lead nowhere count as unreadable. Everything else is left out
and counted: hidden files (such as ._NAME.jpg, which macOS adds to NAME.jpg), files with other
endings, folders in class folders, pipes and devices, and files beside the class folders.
"""

from __future__ import annotations

import enum
import os
from collections import Counter

from flaxres.errors import DatasetError, counted

SUFFIXES = (".jpg", ".jpeg", ".png")
SUFFIXES_TEXT = ".jpg, .jpeg or .png"
MAX_NAMES = 3  # example names per reason


class SkipReason(enum.Enum):
    """Reasons to leave out an entry, each in the singular and the plural for a notice."""

    HIDDEN = ("hidden file or folder", "hidden files or folders")
    OTHER_SUFFIX = (
        f"file without {SUFFIXES_TEXT} at the end",
        f"files without {SUFFIXES_TEXT} at the end",
    )
    FOLDER = ("folder in a class folder", "folders in class folders")
    SPECIAL = ("pipe, socket or device", "pipes, sockets or devices")
    BESIDE_CLASSES = ("file beside the class folders", "files beside the class folders")


class SkippedEntries:
    """Counts and example names of the entries left out of a split, by reason."""

    def __init__(self) -> None:
        """Starts without entries."""
        self._counts: Counter[SkipReason] = Counter()
        self._names: dict[SkipReason, list[str]] = {}

    def add(self, reason: SkipReason, name: str) -> None:
        """Adds an entry.

        Args:
          reason: why it is left out.
          name: path relative to the data set's directory.
        """
        self._counts[reason] += 1
        names = self._names.setdefault(reason, [])
        if len(names) < MAX_NAMES:
            names.append(name)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        """Returns counts and names in the order of the reasons: '1 pipe, socket or device (a)'."""
        parts = []
        for reason in SkipReason:
            if count := self._counts[reason]:
                names = ", ".join(self._names[reason]) + ", ..." * (count > MAX_NAMES)
                parts.append(f"{counted(count, *reason.value)} ({names})")
        return ", ".join(parts)


def list_folders(directory: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
    """Returns the names of the visible folders in a directory, and those of all other entries.

    Both lists are sorted. Links to folders are folders.

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
    split: str | os.PathLike[str], class_name: str, skipped: SkippedEntries
) -> list[str]:
    """Returns the sorted names of the image files in a class folder, without opening them.

    Args:
      split: directory of the split.
      class_name: name of the class folder.
      skipped: receives all other entries of the class folder.

    Raises:
      DatasetError: the class folder cannot be read, or has no image files.
    """
    directory = os.path.join(split, class_name)
    files: list[str] = []
    folders: list[str] = []
    for entry in _scan(directory):
        name = entry.name
        if name.startswith("."):
            reason = SkipReason.HIDDEN
        elif entry.is_dir(follow_symlinks=False):
            folders.append(name)
            num_images = counted(_count_images(entry.path), "image", "images")
            reason, name = SkipReason.FOLDER, f"{name} with {num_images}"
        elif not name.lower().endswith(SUFFIXES):
            reason = SkipReason.OTHER_SUFFIX
        # Links are not followed here: that is slow on a file server.
        elif entry.is_symlink() or entry.is_file(follow_symlinks=False):
            files.append(name)
            continue
        else:
            reason = SkipReason.SPECIAL
        skipped.add(reason, os.path.join(os.path.basename(split), class_name, name))
    if not files:
        hint = f"; move the files from its subfolder {folders[0]} into it" if folders else ""
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
    """Returns the number of files with an image suffix, recursively."""
    return sum(
        name.lower().endswith(SUFFIXES) for _, _, names in os.walk(directory) for name in names
    )
