"""Data sets as arrays, `load_dataset(config.dataset)`, and as what they are read from."""

from __future__ import annotations

import dataclasses
import functools
import json

from ml_collections import ConfigDict

from flaxres.data.dataset import Dataset, Split
from flaxres.data.digits import DIGITS_SHAPE, load_digits
from flaxres.data.folder import open_folder
from flaxres.data.in_memory import load_sources
from flaxres.data.source import ArraySource, Sources
from flaxres.data.streamed import StreamedDataset, image_shape, open_streamed
from flaxres.data.tfds import load_tfds, open_tfds, tfds_shape

__all__ = [
    "Dataset",
    "Sources",
    "Split",
    "StreamedDataset",
    "dataset_shape",
    "load_dataset",
    "open_dataset",
    "open_sources",
]


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
    return sources.select_classes(config.classes)


def open_dataset(config: ConfigDict) -> Dataset | StreamedDataset:
    """The data set of an experiment: in memory, or to be streamed (`config.dataset.placement`).

    Raises:
      ConfigError: there are several replicas, and it would be streamed.
      DatasetError: see `load_dataset`.
    """
    if config.dataset.placement != "device":
        streamed = open_streamed(config, open_sources(config.dataset))
        if streamed is not None:
            return streamed
    return load_dataset(config.dataset)


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
    return dataclasses.replace(_read(config := ConfigDict(json.loads(text))), mean=config.mean)


def _read(config: ConfigDict) -> Dataset:
    splits = (config.train_split, config.test_split, config.validation_split)
    size, short = config.image_size, config.eval_short_side
    skip = config.broken_images == "skip"
    if config.classes or config.name == "folder" or skip or short:
        return load_sources(open_sources(config), size, skip, short)
    if config.name == "digits":
        return load_digits(*splits, image_size=size)
    return load_tfds(config.name, config.data_dir, *splits, image_size=size)


def dataset_shape(config: ConfigDict) -> tuple[tuple[int, int, int], int]:
    """(height, width, channels) and number of classes of a set, without reading its images.

    Raises:
      DatasetError: unknown, or not an image-classification set.
    """
    size = config.image_size
    if config.name == "folder":
        sources = open_sources(config)
        return image_shape(sources, size), sources.num_classes
    if config.name == "digits":
        shape, num_classes = DIGITS_SHAPE
        shape = (size, size, shape[2]) if size else shape
    else:
        shape, num_classes = tfds_shape(config.name, config.data_dir, size)
    return shape, len(config.classes) or num_classes
