"""Data sets as arrays, `load_dataset(config.dataset)`, and as what they are read from."""

from __future__ import annotations

import functools
import json

from ml_collections import ConfigDict

from flaxres.data.dataset import Dataset, Split
from flaxres.data.digits import DIGITS_SHAPE, load_digits
from flaxres.data.folder import open_folder
from flaxres.data.read import read_all
from flaxres.data.source import ArraySource, Sources
from flaxres.data.tfds import load_tfds, open_tfds, tfds_shape

__all__ = ["Dataset", "Sources", "Split", "dataset_shape", "load_dataset", "open_sources"]


def open_sources(config: ConfigDict) -> Sources:
    """The splits of the data set that `config` names, whose images are read when needed.

    Raises:
      DatasetError: see `load_dataset`.
    """
    splits = (config.train_split, config.test_split, config.validation_split)
    if config.name == "folder":
        sources = open_folder(config.data_dir, *splits)
    elif config.name == "digits":
        digits = load_digits(*splits)
        names = ("train", "test", "validation")
        parts = {name: getattr(digits, name) for name in names}
        parts = {
            name: split and ArraySource(f"digits {name}", split.images, split.labels)
            for name, split in parts.items()
        }
        classes = tuple(map(str, range(digits.num_classes)))
        sources = Sources("digits", class_names=classes, channels=1, **parts)
    else:
        sources = open_tfds(config.name, config.data_dir, *splits)
    return sources.keep(config.classes)


def load_dataset(config: ConfigDict) -> Dataset:
    """Loads the data set that `config` (an experiment's `config.dataset`) names into memory.

    The last one is kept, so that experiments of several runs decode their images once.

    Raises:
      DatasetError: unknown, not prepared, incomplete, without the splits or classes asked for, or
        with images that cannot be decoded.
    """
    return _load(config.to_json())


@functools.lru_cache(maxsize=1)
def _load(text: str) -> Dataset:
    config = ConfigDict(json.loads(text))
    splits = (config.train_split, config.test_split, config.validation_split)
    if config.classes or config.name == "folder" or config.broken_images == "skip":
        return read_all(open_sources(config), config.image_size, config.broken_images == "skip")
    if config.name == "digits":
        return load_digits(*splits, image_size=config.image_size)
    return load_tfds(config.name, config.data_dir, *splits, image_size=config.image_size)


def dataset_shape(config: ConfigDict) -> tuple[tuple[int, int, int], int]:
    """(height, width, channels) and number of classes of a set, without reading its images.

    Raises:
      DatasetError: unknown, or not an image-classification set.
    """
    size = config.image_size
    if config.name == "folder":
        sources = open_sources(config)
        image, _ = sources.train.load(0)
        shape = (size, size, 3) if size else (image.height, image.width, 3)
        return shape, sources.num_classes
    if config.name == "digits":
        shape, num_classes = DIGITS_SHAPE
        shape = (size, size, shape[2]) if size else shape
    else:
        shape, num_classes = tfds_shape(config.name, config.data_dir, size)
    return shape, len(config.classes) or num_classes
