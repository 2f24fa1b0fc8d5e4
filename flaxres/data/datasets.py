"""Data sets by name: `load_dataset` reads arrays, `open_sources` single images."""

from __future__ import annotations

import dataclasses
import functools
import json

from ml_collections import ConfigDict

from flaxres.data.dataset import Dataset, Split
from flaxres.data.digits import (
    DIGITS_CLASSES,
    DIGITS_NUM_CLASSES,
    DIGITS_SHAPE,
    digits_fingerprint,
    load_digits,
)
from flaxres.data.folder import open_folder
from flaxres.data.in_memory import load_sources
from flaxres.data.source import ArraySource, Sources
from flaxres.data.streamed import StreamedDataset, first_image_shape, open_streamed
from flaxres.data.tfds import load_tfds, open_tfds, tfds_shape


def open_sources(config: ConfigDict) -> Sources:
    """Opens the splits of a data set, whose images are read one by one on demand.

    Args:
      config: an experiment's `config.dataset`.

    Raises:
      DatasetError: the data set is unknown, not prepared or incomplete, or it lacks one of the
        given splits or classes.
    """
    splits = (config.train_split, config.test_split, config.validation_split)
    if config.name == "folder":
        sources = open_folder(config.data_dir, *splits)
    elif config.name == "digits":
        sources = _open_digits(*splits)
    else:
        sources = open_tfds(config.name, config.data_dir, *splits)
    return sources.select_classes(config.classes)


def _open_digits(train_split: str, test_split: str, validation_split: str | None) -> Sources:
    digits = load_digits(train_split, test_split, validation_split)
    sources = Sources(
        name="digits",
        train=_digits_source("train", digits.train),
        test=_digits_source("test", digits.test),
        class_names=DIGITS_CLASSES,
        channels=1,
        find_fingerprint=functools.partial(
            digits_fingerprint, train_split, test_split, validation_split
        ),
    )
    if digits.validation is None:
        return sources
    return dataclasses.replace(sources, validation=_digits_source("validation", digits.validation))


def _digits_source(name: str, split: Split) -> ArraySource:
    return ArraySource(f"digits {name}", split.images, split.labels)


def open_dataset(config: ConfigDict, sources: Sources | None = None) -> Dataset | StreamedDataset:
    """Opens the data set of an experiment, in memory or streamed (`config.dataset.placement`).

    Args:
      config: the experiment.
      sources: its opened splits (default: opens them).

    Raises:
      ConfigError: the data set would be streamed, and num_replicas is above 1.
      DatasetError: the data set cannot be opened or its images cannot be decoded.
    """
    sources = sources or open_sources(config.dataset)
    streamed = open_streamed(config, sources)
    return streamed or load_dataset(config.dataset, sources)


def load_dataset(config: ConfigDict, sources: Sources | None = None) -> Dataset:
    """Loads a data set into memory.

    The last data set is cached until its files change, so experiments with several runs decode
    their images once.

    Args:
      config: an experiment's `config.dataset`.
      sources: its opened splits (default: opens them).

    Raises:
      DatasetError: the data set is unknown, not prepared or incomplete, it lacks one of the given
        splits or classes, or an image cannot be decoded.
    """
    sources = sources or open_sources(config)
    return _load(config.to_json(), sources.fingerprint.digest)


@functools.lru_cache(maxsize=1)
def _load(config_json: str, _digest: str) -> Dataset:
    config = ConfigDict(json.loads(config_json))
    return dataclasses.replace(_read(config), mean_kind=config.mean)


def _read(config: ConfigDict) -> Dataset:
    splits = (config.train_split, config.test_split, config.validation_split)
    image_size, eval_short_side = config.image_size, config.eval_short_side
    skip_broken = config.broken_images == "skip"
    if config.classes or config.name == "folder" or skip_broken or eval_short_side:
        return load_sources(open_sources(config), image_size, skip_broken, eval_short_side)
    if config.name == "digits":
        return load_digits(*splits, image_size=image_size)
    return load_tfds(config.name, config.data_dir, *splits, image_size=image_size)


def num_train_images(config: ConfigDict) -> int:
    """Returns the number of images in the training split, that is, in an epoch.

    Reads no images. Images that cannot be decoded are counted.

    Args:
      config: an experiment's `config.dataset`.

    Raises:
      DatasetError: the data set cannot be opened, or lacks one of the given splits or classes.
    """
    return len(open_sources(config).train)


def dataset_shape(config: ConfigDict) -> tuple[tuple[int, int, int], int]:
    """Returns the (height, width, channels) of a data set's images and its number of classes.

    Reads no images, except the first one of a folder whose images are not resized.

    Args:
      config: an experiment's `config.dataset`.

    Raises:
      DatasetError: the data set is unknown or not an image-classification set.
    """
    image_size = config.image_size
    if config.name == "folder":
        sources = open_sources(config)
        return first_image_shape(sources, image_size), sources.num_classes
    if config.name == "digits":
        shape, num_classes = DIGITS_SHAPE, DIGITS_NUM_CLASSES
        shape = (image_size, image_size, shape[2]) if image_size else shape
    else:
        shape, num_classes = tfds_shape(config.name, config.data_dir, image_size)
    return shape, len(config.classes) or num_classes
