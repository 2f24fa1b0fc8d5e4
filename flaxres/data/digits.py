"""The 8x8 handwritten digits bundled with scikit-learn: 1,797 images that need no download."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped, UInt8

from flaxres.data.dataset import Dataset, Split
from flaxres.data.fingerprint import Fingerprint, arrays_fingerprint
from flaxres.data.resize import resize_arrays
from flaxres.data.source import parse_split
from flaxres.errors import DatasetError

DIGITS_SHAPE = (8, 8, 1)  # height, width, channels
DIGITS_NUM_CLASSES = 10
DIGITS_CLASSES = tuple(map(str, range(DIGITS_NUM_CLASSES)))
DIGITS_FILE = ("datasets", "data", "digits.csv.gz")  # in the package sklearn
TEST_SIZE = 360  # of 1,797 images, which leaves 1,437 for training


def load_digits(
    train_split: str = "train",
    test_split: str = "test",
    validation_split: str | None = None,
    image_size: int = 0,
) -> Dataset:
    """Loads the digits with a fixed stratified split: 1,437 for training and 360 for testing.

    Args:
      train_split: 'train', or a slice in TFDS syntax such as 'train[:1200]' or 'train[:80%]'.
      test_split: the test split, in the same syntax.
      validation_split: the validation split, such as 'train[1200:]' (default: none).
      image_size: height and width to which images are resized, in pixels (default, 0: 8).

    Returns:
      The data set, with images of one channel. The gray levels 0..16 are scaled to 0..255.

    Raises:
      DatasetError: a split does not exist or is empty.
    """
    splits = {
        name: Split(
            resize_arrays(split.images, image_size) if image_size else split.images, split.labels
        )
        for name, split in _read_splits().items()
    }
    return Dataset(
        name="digits",
        train=_slice(splits, train_split),
        test=_slice(splits, test_split),
        num_classes=DIGITS_NUM_CLASSES,
        validation=_slice(splits, validation_split) if validation_split else None,
    )


@functools.lru_cache(maxsize=1)
def _read_splits() -> dict[str, Split]:
    """Reads both splits in their original size."""
    table = _read_table()
    images = np.rint(table[:, :-1].reshape(-1, *DIGITS_SHAPE) * (255 / 16)).astype(np.uint8)
    labels = table[:, -1]
    train_rows, test_rows = _stratified_split(labels, TEST_SIZE)
    return {
        name: Split(images[rows], labels[rows].astype(np.int32))
        for name, rows in (("train", train_rows), ("test", test_rows))
    }


def _read_table() -> UInt8[np.ndarray, "images 65"]:
    """Reads scikit-learn's file of the digits: 64 gray levels 0..16 and a label in each row.

    `sklearn.datasets.load_digits` reads the same file, but importing scikit-learn takes a second.

    Raises:
      DatasetError: scikit-learn is not installed, or has no such file.
    """
    spec = importlib.util.find_spec("sklearn")
    directories = (spec and spec.submodule_search_locations) or []
    for directory in directories:
        path = Path(directory, *DIGITS_FILE)
        if path.is_file():
            return np.loadtxt(path, dtype=np.uint8, delimiter=",")
    raise DatasetError(
        f"the digits are read from scikit-learn's file {'/'.join(DIGITS_FILE)}, which is not "
        "installed; pip install scikit-learn"
    )


def _stratified_split(
    labels: Shaped[np.ndarray, " images"], test_size: int
) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " test"]]:
    """Returns the rows of the training and of the test split, in random order.

    The split is that of scikit-learn: `train_test_split(rows, test_size=test_size,
    stratify=labels, random_state=0)`.

    Args:
      labels: labels of all images, from 0, without gaps.
      test_size: number of test images.
    """
    random = np.random.RandomState(0)
    counts = np.bincount(labels)
    train_counts = _proportional_counts(counts, len(labels) - test_size, random)
    test_counts = _proportional_counts(counts - train_counts, test_size, random)
    train: list[int] = []
    test: list[int] = []
    for label, (num_train, num_test) in enumerate(zip(train_counts, test_counts, strict=True)):
        rows = np.flatnonzero(labels == label)[random.permutation(counts[label])]
        train.extend(rows[:num_train])
        test.extend(rows[num_train : num_train + num_test])
    return random.permutation(train), random.permutation(test)


def _proportional_counts(
    counts: Int64[np.ndarray, " classes"], total: int, random: np.random.RandomState
) -> Int64[np.ndarray, " classes"]:
    """Splits `total` images over classes in proportion to `counts`, ties in random order."""
    exact = counts / counts.sum() * total
    rounded = np.floor(exact)
    for remainder in np.unique(exact - rounded)[::-1]:  # the largest first
        missing = int(total - rounded.sum())
        if missing == 0:
            break
        tied = np.flatnonzero(exact - np.floor(exact) == remainder)
        rounded[random.choice(tied, min(len(tied), missing), replace=False)] += 1
    return rounded.astype(np.int64)


def digits_fingerprint(*specs: str | None) -> Fingerprint:
    """Returns the fingerprint of the digits, in their original size.

    Args:
      specs: the splits that are used, such as 'train[:80%]'; None for none.
    """
    used = {spec.partition("[")[0] for spec in specs if spec}
    splits = {
        name: {"images": split.images, "labels": split.labels}
        for name, split in _read_splits().items()
        if name in used
    }
    return arrays_fingerprint("digits", DIGITS_CLASSES, splits)


def _slice(splits: Mapping[str, Split], spec: str) -> Split:
    """Returns the images and labels that a spec such as 'train[:80%]' selects."""
    sizes = {name: len(split) for name, split in splits.items()}
    name, rows = parse_split(spec, sizes, "digits")
    return Split(splits[name].images[rows], splits[name].labels[rows])
