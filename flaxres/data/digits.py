"""The 8x8 handwritten digits bundled with scikit-learn: 1,797 images that need no download."""

from __future__ import annotations

import numpy as np

from flaxres.data.dataset import Dataset, Split
from flaxres.data.resize import resize_arrays
from flaxres.data.source import parse_split

DIGITS_SHAPE = (8, 8, 1), 10  # of an image, and number of classes
TEST_SIZE = 360  # of 1,797, so 1,437 for training


def load_digits(
    train_split: str = "train",
    test_split: str = "test",
    validation_split: str | None = None,
    image_size: int = 0,
) -> Dataset:
    """Loads the digits with a fixed stratified split, 1,437 for training and 360 for testing.

    Args:
      train_split: 'train' or a part of it in TFDS syntax, such as 'train[:1200]' or 'train[:80%]'.
      test_split: likewise.
      validation_split: likewise, e.g. 'train[1200:]'; None for no such split.
      image_size: pixels on each side that the images are scaled to; 0 for 8.

    Returns:
      Images of one channel; the original grey levels 0..16 are spread over 0..255.

    Raises:
      DatasetError: a split that does not exist.
    """
    from sklearn import datasets, model_selection  # takes a second, so only when asked for

    images, labels = datasets.load_digits(return_X_y=True)
    images = np.rint(images.reshape(-1, *DIGITS_SHAPE[0]) * (255 / 16)).astype(np.uint8)
    if image_size:
        images = resize_arrays(images, image_size)
    train, test = model_selection.train_test_split(
        np.arange(len(labels)), test_size=TEST_SIZE, stratify=labels, random_state=0
    )
    parts = {
        name: Split(images[rows], labels[rows].astype(np.int32))
        for name, rows in (("train", train), ("test", test))
    }
    return Dataset(
        name="digits",
        train=_slice(parts, train_split),
        test=_slice(parts, test_split),
        num_classes=DIGITS_SHAPE[1],
        validation=_slice(parts, validation_split) if validation_split else None,
    )


def _slice(parts: dict[str, Split], spec: str) -> Split:
    """The part that a spec names."""
    name, rows = parse_split(spec, {name: len(part) for name, part in parts.items()}, "digits")
    return Split(parts[name].images[rows], parts[name].labels[rows])
