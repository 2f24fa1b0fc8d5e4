"""Image-classification sets of TensorFlow Datasets (TFDS), read without TensorFlow.

Data sets are read with `as_data_source`, which needs them prepared as ArrayRecord files. A data set
that is not prepared yet is prepared by a child process (`flaxres.data.prepare`), the only place
that imports TensorFlow.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from flaxres.data.dataset import Dataset
from flaxres.data.fingerprint import (
    FileList,
    Fingerprint,
    SplitFingerprint,
    file_sizes,
)
from flaxres.data.in_memory import load_sources
from flaxres.data.record_source import RecordSource, damaged_error
from flaxres.data.source import Sources
from flaxres.data.tfds_names import check_tfds_name
from flaxres.errors import DatasetError, one_line, printable
from flaxres.extras import install_command
from flaxres.prepared_data import list_prepared
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
    builder = _open_builder(name, data_dir)
    if not builder.is_prepared():
        if builder.data_path.exists():
            raise damaged_error(_name_with_path(builder), FileNotFoundError("no dataset_info.json"))
        _prepare(name, data_dir)
        builder = _open_builder(name, data_dir)
    image_key, label_key = _feature_keys(builder)
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


def tfds_shape(
    name: str, data_dir: str | None, image_size: int = 0
) -> tuple[tuple[int, int, int], int]:
    """Returns the (height, width, channels) of a data set's images and its number of classes.

    The data set need not be prepared.

    Raises:
      DatasetError: the data set is unknown or not an image-classification set, or its images vary
        in size and `image_size` is 0.
    """
    builder = _open_builder(name, data_dir)
    image_key, label_key = _feature_keys(builder)
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


def _data_dir(data_dir: str | None) -> str:
    """Returns the directory of prepared data sets."""
    import tensorflow_datasets as tfds

    return os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)


def _open_builder(name: str, data_dir: str | None) -> Any:
    """Returns the TFDS builder of a data set, from its code or from its prepared files."""
    check_tfds_name(name)
    import tensorflow_datasets as tfds

    directory = _data_dir(data_dir)
    try:
        return tfds.builder(name, data_dir=directory)
    except tfds.core.registered.DatasetNotFoundError:
        raise DatasetError(
            f"data set {name!r} is neither 'digits' nor a data set of TFDS, and no data set of "
            f"that name is prepared (with a dataset_info.json) in {directory}"
            f"{did_you_mean(name, _known_names(directory))}"
        ) from None
    except Exception as error:  # a malformed name or dataset_info.json
        raise DatasetError(
            f"data set {name!r} in {directory} cannot be opened: {one_line(error)}"
            f"{did_you_mean(name, _known_names(directory))}"
        ) from error


def _known_names(directory: str) -> list[str]:
    """Returns the names of all data sets: own ones, prepared ones and those that TFDS has."""
    import tensorflow_datasets as tfds

    own = ["digits", "folder", *list_prepared(directory)]
    return own + tfds.list_builders(with_community_datasets=False)


def _prepare(name: str, data_dir: str | None) -> None:
    """Downloads and prepares a data set in a child process."""
    directory = _data_dir(data_dir)
    command = [sys.executable, "-m", "flaxres.data.prepare", f"--name={name}"]
    if data_dir is not None:
        command.append(f"--data_dir={data_dir}")
    shown_command = " ".join(["python", *command[1:]])
    if importlib.util.find_spec("tensorflow") is None:
        raise DatasetError(
            f"data set {name!r} is not prepared in {directory}, and preparing it needs TensorFlow: "
            f"run `{install_command('prepare')}`, then `{shown_command}`"
        )
    print(f"preparing {name} in {directory} (only once)", file=sys.stderr)
    if subprocess.run(command, check=False).returncode:
        raise DatasetError(
            f"data set {name!r} could not be prepared in {directory} (see above); on a machine "
            f"with network access, run `{shown_command}`"
        )


def _feature_keys(builder: Any) -> tuple[str, str]:
    """Returns the names of the image feature and of the label feature."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    image_keys, label_keys = (
        [key for key, feature in features.items() if isinstance(feature, feature_type)]
        for feature_type in (tfds.features.Image, tfds.features.ClassLabel)
    )
    if builder.info.supervised_keys and len(builder.info.supervised_keys) == 2:
        image_key, label_key = builder.info.supervised_keys
        if image_key in image_keys and label_key in label_keys:
            return image_key, label_key
    if (len(image_keys), len(label_keys)) != (1, 1):
        raise DatasetError(
            f"data set {builder.info.name!r} is not an image-classification set: it has the "
            f"features {', '.join(features)}"
        )
    return image_keys[0], label_keys[0]


def _open_split(builder: Any, split: str) -> RecordSource:
    """Opens the records of one split, without decoding them."""
    import tensorflow_datasets as tfds

    name = builder.info.name
    image_key, label_key = _feature_keys(builder)
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
            f"it elsewhere with `python -m flaxres.data.prepare --name={name} --data_dir=DIR`"
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
        raise damaged_error(_name_with_path(builder), error) from error
    channels = builder.info.features[image_key].shape[2]
    return RecordSource(
        records, f"{name} {split} in {builder.data_path}", image_key, label_key, channels
    )


def _fingerprint(builder: Any, specs: Sequence[str]) -> Fingerprint:
    """Returns the version, split sizes, class names and shards of a data set.

    Args:
      builder: TFDS builder of the prepared data set.
      specs: the splits that are used, such as 'train[:80%]'.
    """
    _, label_key = _feature_keys(builder)
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
    return SplitFingerprint(split.num_examples, {"shards": FileList.of(shards, keep_listing=True)})


def _name_with_path(builder: Any) -> str:
    return f"{builder.info.name!r} in {builder.data_path}"
