"""The 8x8 handwritten digits bundled with scikit-learn: 1,797 images that need no download."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from flaxres.data.dataset import Dataset, Split
from flaxres.data.fingerprint import Fingerprint, arrays_fingerprint
from flaxres.data.resize import resize_arrays
from flaxres.data.source import parse_split

DIGITS_SHAPE = (8, 8, 1)  # height, width, channels
DIGITS_NUM_CLASSES = 10
DIGITS_CLASSES = tuple(map(str, range(DIGITS_NUM_CLASSES)))
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
    from sklearn import datasets, model_selection  # the import takes a second

    images, labels = datasets.load_digits(return_X_y=True)
    images = np.rint(images.reshape(-1, *DIGITS_SHAPE) * (255 / 16)).astype(np.uint8)
    train_rows, test_rows = model_selection.train_test_split(
        np.arange(len(labels)), test_size=TEST_SIZE, stratify=labels, random_state=0
    )
    return {
        name: Split(images[rows], labels[rows].astype(np.int32))
        for name, rows in (("train", train_rows), ("test", test_rows))
    }


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
