"""Data sets as arrays: `load_dataset(config.dataset)`."""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from flaxres.data.dataset import Dataset, Split
from flaxres.data.digits import DIGITS_SHAPE, load_digits
from flaxres.data.tfds import load_tfds, tfds_shape

__all__ = ["Dataset", "Split", "dataset_shape", "load_dataset"]


def load_dataset(config: ConfigDict) -> Dataset:
    """Loads the data set that `config` (an experiment's `config.dataset`) names.

    The last one is kept, so that experiments of several runs decode their images once.

    Raises:
      DatasetError: unknown, not prepared, incomplete, or without the splits asked for.
    """
    splits = (config.train_split, config.test_split, config.validation_split)
    return _load(config.name, config.data_dir, splits, config.image_size)


@functools.lru_cache(maxsize=1)
def _load(
    name: str, data_dir: str | None, splits: tuple[str, str, str | None], image_size: int
) -> Dataset:
    if name == "digits":
        return load_digits(*splits, image_size=image_size)
    return load_tfds(name, data_dir, *splits, image_size=image_size)


def dataset_shape(config: ConfigDict) -> tuple[tuple[int, int, int], int]:
    """(height, width, channels) and number of classes of a set, without reading its images.

    Raises:
      DatasetError: unknown, or not an image-classification set.
    """
    size = config.image_size
    if config.name == "digits":
        shape, num_classes = DIGITS_SHAPE
        return ((size, size, shape[2]) if size else shape), num_classes
    return tfds_shape(config.name, config.data_dir, size)
