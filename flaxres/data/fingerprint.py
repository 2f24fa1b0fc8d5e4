"""Fingerprints of data sets: classes, numbers of images, names and sizes of files, digests.

A run keeps the fingerprint of its data (`flaxres.run.data_record`), and `describe_differences`
tells how the data have changed since. No image is decoded.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Shaped

from flaxres.errors import printable

# Data sets of more files keep one digest for each class instead of the names and sizes: ImageNet's
# 1.28 million names would take some 15 MB in every workdir.
MAX_LISTED_FILES = 100_000
MAX_ENTRY_BYTES = 300  # a file's name (at most 255 bytes) and size in a listing
UNREADABLE = -1  # size of a file that cannot be read
SAMPLE_BYTES = 64 * 1024  # read at the start and at the end of a shard


@dataclasses.dataclass(frozen=True)
class FileList:
    """Names and sizes of files.

    Attributes:
      count: number of files.
      digest: SHA-256 of the names and sizes.
      listing: names and sizes, compressed (zlib, base85); empty if only the digest is kept.
    """

    count: int
    digest: str
    listing: str = ""

    @classmethod
    def of(cls, sizes: Mapping[bytes, int], keep_listing: bool) -> FileList:
        """Builds the list from the sizes of files.

        Args:
          sizes: size of each file in bytes, by name.
          keep_listing: if True, the names and sizes can be read back.
        """
        content = b"".join(b"%s\0%d\0" % (name, sizes[name]) for name in sorted(sizes))
        listing = base64.b85encode(zlib.compress(content)).decode() if keep_listing else ""
        return cls(len(sizes), hashlib.sha256(content).hexdigest(), listing)

    def sizes(self) -> dict[str, int] | None:
        """Returns the size of each file in bytes by printable name; None without a listing.

        Raises:
          ValueError: the listing is damaged.
        """
        if not self.listing:
            return None
        try:
            compressed = base64.b85decode(self.listing)
            content = zlib.decompressobj().decompress(compressed, self.count * MAX_ENTRY_BYTES + 1)
        except zlib.error as error:
            raise ValueError(f"a listing of files is damaged: {error}") from None
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise ValueError("a listing of files is damaged: its digest differs")
        names, sizes = content.split(b"\0")[:-1:2], content.split(b"\0")[1::2]
        return {
            printable(os.fsdecode(name)): int(size) for name, size in zip(names, sizes, strict=True)
        }


@dataclasses.dataclass(frozen=True)
class ArrayDigest:
    """Shape, dtype and content of an array.

    Attributes:
      shape: shape of the array.
      dtype: its dtype, such as 'uint8'.
      digest: SHA-256 of its bytes.
    """

    shape: tuple[int, ...]
    dtype: str
    digest: str

    @classmethod
    def of(cls, array: Shaped[np.ndarray, "*shape"]) -> ArrayDigest:
        """Returns the digest of an array."""
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        return cls(array.shape, str(array.dtype), digest)


@dataclasses.dataclass(frozen=True)
class SplitFingerprint:
    """Fingerprint of a whole split, even if the run uses only a slice.

    A run on 'train[:80%]' has another fingerprint when images outside this slice are added or
    removed.

    Attributes:
      images: number of images.
      files: for a folder, the image files of each class; for TFDS, the shards under the key
        'shards'.
      arrays: arrays of a data set in memory, by name.
      samples: one digest over the first and last 64 KiB of all shards (`sample_files`); empty for
        other data, if a shard cannot be read, and in fingerprints of earlier versions.
    """

    images: int
    files: dict[str, FileList] = dataclasses.field(default_factory=dict)
    arrays: dict[str, ArrayDigest] = dataclasses.field(default_factory=dict)
    samples: str = ""


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Identity of a run's data set, independent of its location.

    Attributes:
      dataset: 'folder', 'digits', or the name and version of a TFDS data set.
      classes: names of all classes of the data set, ordered by label, without unprintable
        characters.
      splits: the splits that the run uses, by name.
    """

    dataset: str
    classes: tuple[str, ...]
    splits: dict[str, SplitFingerprint] = dataclasses.field(default_factory=dict)

    @property
    def is_folder(self) -> bool:
        """True for a data set of class folders."""
        return self.dataset == "folder"

    @property
    def digest(self) -> str:
        """SHA-256 of the fingerprint, in hexadecimal digits."""
        parts: list[object] = [self.dataset, self.classes]
        for name, split in sorted(self.splits.items()):
            files = [(group, listed.digest) for group, listed in split.files.items()]
            parts += [name, split.images, files, sorted(split.arrays.items())]
            parts += [split.samples] if split.samples else []
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def with_samples_of(self, other: Fingerprint) -> Fingerprint:
        """Returns a copy that has the samples of `other` for splits without samples."""
        splits = {
            name: dataclasses.replace(split, samples=other.splits[name].samples)
            if name in other.splits and not split.samples
            else split
            for name, split in self.splits.items()
        }
        return dataclasses.replace(self, splits=splits)


def unknown_data() -> Fingerprint:
    """Returns an empty fingerprint, for sources that have none."""
    return Fingerprint("", ())


def file_sizes(directory: str | os.PathLike[str], names: Iterable[bytes]) -> dict[bytes, int]:
    """Returns the size in bytes of each file in a directory, by name.

    A million files take some three seconds, and longer on a network. Files that cannot be read get
    the size `UNREADABLE`; loading the images reports them.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return dict.fromkeys(names, UNREADABLE)
    try:
        return {name: _size(name, descriptor) for name in names}
    finally:
        os.close(descriptor)


def _size(name: bytes, directory: int) -> int:
    try:
        return os.stat(name, dir_fd=directory).st_size
    except OSError:
        return UNREADABLE


def sample_files(paths: Iterable[os.PathLike[str]]) -> str:
    """Returns the SHA-256 of the first and the last 64 KiB of each file, in hexadecimal digits.

    Detects other or reordered records in files of equal size, unless they differ only between the
    two samples. Returns "" if a file cannot be read; loading the images reports it.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as file:
                digest.update(file.read(SAMPLE_BYTES))
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - SAMPLE_BYTES))
                digest.update(file.read())
        except OSError:
            return ""
    return digest.hexdigest()


def arrays_fingerprint(
    name: str,
    classes: Sequence[str],
    splits: Mapping[str, Mapping[str, Shaped[np.ndarray, "*shape"]]],
) -> Fingerprint:
    """Returns the fingerprint of a data set in memory.

    Args:
      name: name of the data set.
      classes: names of its classes, ordered by label.
      splits: arrays of each split by name, all with one entry for each image.
    """
    return Fingerprint(
        name,
        tuple(classes),
        {
            split: SplitFingerprint(
                images=len(next(iter(arrays.values()))),
                arrays={key: ArrayDigest.of(array) for key, array in arrays.items()},
            )
            for split, arrays in splits.items()
        },
    )
