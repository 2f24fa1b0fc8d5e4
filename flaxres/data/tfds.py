"""Image-classification sets of TensorFlow Datasets (TFDS), read without TensorFlow.

Data sets are read with `as_data_source`, which needs them prepared as ArrayRecord files.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from typing import Any

from flaxres.data.dataset import Dataset
from flaxres.data.fingerprint import (
    FileList,
    Fingerprint,
    SplitFingerprint,
    file_sizes,
    sample_files,
)
from flaxres.data.in_memory import load_sources
from flaxres.data.record_source import RecordSource, damaged_error
from flaxres.data.source import Sources
from flaxres.data.tfds_builders import (
    feature_keys,
    is_prepared,
    name_with_path,
    open_builder,
    open_prepared,
)
from flaxres.errors import DatasetError, one_line, printable
from flaxres.suggestions import did_you_mean


def open_tfds(
    name: str,
    data_dir: str | None,
    train_split: str,
    test_split: str,
    validation_split: str | None = None,
) -> Sources:
    """Opens the splits of a TFDS data set, and prepares it first if necessary; reads no images.

    Args:
      name: name in TFDS, such as 'cifar10', or 'cifar10:3.0.2' for one version.
      data_dir: directory of prepared data sets; None for the default of TFDS.
      train_split: training split in TFDS syntax, such as 'train' or 'train[:45000]'.
      test_split: the test split, in the same syntax.
      validation_split: the validation split, such as 'train[45000:]' (default: none).

    Raises:
      DatasetError: the data set is unknown, incomplete, cannot be prepared on this machine or is
        not an image-classification set, or a split does not exist.
    """
    builder = open_prepared(name, data_dir)
    image_key, label_key = feature_keys(builder)
    features = builder.info.features
    return Sources(
        name=builder.info.name,
        train=_open_split(builder, train_split),
        test=_open_split(builder, test_split),
        class_names=tuple(features[label_key].names),
        channels=features[image_key].shape[2],
        validation=_open_split(builder, validation_split) if validation_split else None,
        find_fingerprint=functools.partial(
            _fingerprint, builder, [train_split, test_split, validation_split or ""]
        ),
    )


def load_tfds(
    name: str,
    data_dir: str | None,
    train_split: str,
    test_split: str,
    validation_split: str | None = None,
    image_size: int = 0,
) -> Dataset:
    """Loads the splits of a TFDS data set into memory.

    Args:
      name: name in TFDS, such as 'cifar10', or 'cifar10:3.0.2' for one version.
      data_dir: directory of prepared data sets; None for the default of TFDS.
      train_split: training split in TFDS syntax, such as 'train' or 'train[:45000]'.
      test_split: the test split, in the same syntax.
      validation_split: the validation split, such as 'train[45000:]' (default: none).
      image_size: height and width to which images are resized, in pixels (default, 0: unchanged;
        they must have one size).

    Raises:
      DatasetError: the data set cannot be opened, its images vary in size, or a record is damaged.
    """
    sources = open_tfds(name, data_dir, train_split, test_split, validation_split)
    (height, width, _), _ = tfds_shape(name, data_dir, image_size)
    expected_size = None if image_size else (height, width)
    return load_sources(
        sources,
        image_size,
        read_examples=functools.partial(RecordSource.examples, image_size=expected_size),
    )


def prepare_jpeg_copy(name: str, data_dir: str | None) -> str:
    """Prepares a JPEG copy of a data set, unless it is already prepared; returns its directory.

    Args:
      name: name of the copy, such as 'cifar10_jpeg' (`split_jpeg_name`). Its source is prepared
        first if necessary.
      data_dir: directory of prepared data sets; None for the default of TFDS.

    Raises:
      DatasetError: as of `open_tfds`, or the source cannot be re-encoded.
      OSError: the copy cannot be written.
    """
    builder = open_builder(name, data_dir)
    if not is_prepared(builder):
        source = open_prepared(builder.source.name, data_dir, copy=name)
        builder = open_builder(name, data_dir)  # a prepared source has class names
        try:
            builder.write({split: _open_split(source, split) for split in source.info.splits})
        except OSError:  # another process may have finished the same copy in the meantime
            if not builder.data_path.exists():
                raise
    return str(builder.data_path)


def tfds_shape(
    name: str, data_dir: str | None, image_size: int = 0
) -> tuple[tuple[int, int, int], int]:
    """Returns the (height, width, channels) of a data set's images and its number of classes.

    The data set need not be prepared.

    Raises:
      DatasetError: the data set is unknown or not an image-classification set, or its images vary
        in size and `image_size` is 0.
    """
    builder = open_builder(name, data_dir)
    image_key, label_key = feature_keys(builder)
    features = builder.info.features
    shape = features[image_key].shape
    if image_size:
        shape = (image_size, image_size, shape[2])
    if None in shape:
        raise DatasetError(
            f"data set {builder.info.name!r} has images of varying size {shape}; choose one size "
            "for all, e.g. --config.dataset.image_size=224"
        )
    return shape, features[label_key].num_classes


def _open_split(builder: Any, split: str) -> RecordSource:
    """Opens the records of one split, without decoding them."""
    import tensorflow_datasets as tfds

    name = builder.info.name
    image_key, label_key = feature_keys(builder)
    decoders = {
        key: tfds.decode.SkipDecoding() for key in builder.info.features if key != label_key
    }
    try:
        records = builder.as_data_source(split=split, decoders=decoders)
        len(records)
    except NotImplementedError:
        raise DatasetError(
            f"data set {name!r} in {builder.data_path} is prepared as "
            f"{builder.info.file_format.value}, which cannot be read without TensorFlow; prepare "
            f"it elsewhere with `flaxres prepare --name={name} --data_dir=DIR`"
        ) from None
    except (ValueError, KeyError, AssertionError) as error:
        known = ", ".join(
            f"{key} ({info.num_examples:,})" for key, info in builder.info.splits.items()
        )
        raise DatasetError(
            f"data set {name!r} has no split {split!r}; it has {known}: {one_line(error)}"
            f"{did_you_mean(split, builder.info.splits)}"
        ) from None
    except Exception as error:
        raise damaged_error(name_with_path(builder), error) from error
    channels = builder.info.features[image_key].shape[2]
    return RecordSource(
        records, f"{name} {split} in {builder.data_path}", image_key, label_key, channels
    )


def _fingerprint(builder: Any, specs: Sequence[str]) -> Fingerprint:
    """Returns the version, split sizes, class names, and sizes and samples of shards.

    Args:
      builder: TFDS builder of the prepared data set.
      specs: the splits that are used, such as 'train[:80%]'.
    """
    _, label_key = feature_keys(builder)
    known = builder.info.splits
    words = set(re.findall(r"\w+", " ".join(specs)))
    return Fingerprint(
        builder.info.full_name.replace("/", " "),
        tuple(map(printable, builder.info.features[label_key].names)),
        {
            # A spec without the name of a split, such as 'all', uses all splits.
            name: _fingerprint_of_split(known[name])
            for name in sorted(words & known.keys()) or sorted(known)
        },
    )


def _fingerprint_of_split(split: Any) -> SplitFingerprint:
    shards: dict[bytes, int] = {}
    for path in split.filepaths:
        shards |= file_sizes(path.parent, [os.fsencode(path.name)])
    return SplitFingerprint(
        images=split.num_examples,
        files={"shards": FileList.of(shards, keep_listing=True)},
        samples=sample_files(split.filepaths),
    )
