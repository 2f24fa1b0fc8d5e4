"""Image-classification sets of TensorFlow Datasets, read without TensorFlow.

Reading uses `as_data_source`, which needs the set prepared as ArrayRecord files. A set that is not
prepared yet is prepared by a child process (`flaxres.data.prepare`), the only place for TensorFlow.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
from PIL import Image

from flaxres.data.dataset import Dataset, Split
from flaxres.data.decode import decode
from flaxres.data.resize import resize
from flaxres.data.source import Sources, check_label
from flaxres.errors import DatasetError, one_line
from flaxres.terminal import make_progress_bar

# Images are decoded here, with Pillow, rather than by TFDS: TFDS takes OpenCV where it happens to
# be installed, and two decoders need not agree on every pixel of a JPEG.
MIN_IMAGES_FOR_PROGRESS = 4_001  # smaller splits are read before a bar would be noticed
READ_BLOCK = 1_000  # examples read and decoded between two updates of the progress bar


@dataclasses.dataclass(frozen=True)
class RecordSource:
    """The records of one split; see `flaxres.data.source.Source`.

    Attributes:
      records: TFDS's data source, with encoded images.
      name: of the data set and split.
      image_key: name of the image among a record's features.
      label_key: that of the label.
      channels: of the images.
    """

    records: Sequence[dict]
    name: str
    image_key: str
    label_key: str
    channels: int

    def __len__(self) -> int:
        return len(self.records)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """See there."""
        record = self.records[index]
        return self.decode(record, index), int(record[self.label_key])

    def decode(self, record: dict, index: int) -> Image.Image:
        """The image of a record that has been read."""
        return decode(record[self.image_key], self.describe(index), self.channels)

    def describe(self, index: int) -> str:
        """See there."""
        return f"image {index} of {self.name}"

    def labels(self) -> np.ndarray:
        """See there."""
        found = np.empty(len(self), np.int32)
        for start in range(0, len(self), READ_BLOCK):
            rows = range(start, min(start + READ_BLOCK, len(self)))
            block = self.records.__getitems__(list(rows))
            found[start : start + len(rows)] = [record[self.label_key] for record in block]
        return found


def open_tfds(
    name: str,
    data_dir: str | None,
    train_split: str,
    test_split: str,
    validation_split: str | None = None,
) -> Sources:
    """Opens the splits of a TFDS set, preparing the set first where needed; reads no image.

    Args:
      name: as TFDS knows it, e.g. 'cifar10'; 'cifar10:3.0.2' asks for a version.
      data_dir: the directory that holds prepared sets; None for TFDS's default.
      train_split: in TFDS split syntax, e.g. 'train' or 'train[:45000]'.
      test_split: likewise.
      validation_split: likewise, e.g. 'train[45000:]'; None for no such split.

    Raises:
      DatasetError: unknown, not preparable here, incomplete, of another kind, or no such split.
    """
    builder = _open(name, data_dir)
    if not builder.is_prepared():
        if builder.data_path.exists():
            raise _damaged(builder, FileNotFoundError("no dataset_info.json"))
        _prepare(name, data_dir)
        builder = _open(name, data_dir)
    image, label = _features(builder)
    features = builder.info.features
    return Sources(
        name=builder.info.name,
        train=_source(builder, train_split),
        test=_source(builder, test_split),
        class_names=tuple(features[label].names),
        channels=features[image].shape[2],
        validation=_source(builder, validation_split) if validation_split else None,
    )


def load_tfds(
    name: str,
    data_dir: str | None,
    train_split: str,
    test_split: str,
    validation_split: str | None = None,
    image_size: int = 0,
) -> Dataset:
    """Loads the splits of a TFDS set into memory.

    Args:
      name: see `open_tfds`.
      data_dir: see there.
      train_split: see there.
      test_split: see there.
      validation_split: see there.
      image_size: see `flaxres.data.resize`; 0 for images as they are, all of one size.

    Raises:
      DatasetError: see there.
    """
    sources = open_tfds(name, data_dir, train_split, test_split, validation_split)
    shape, num_classes = tfds_shape(name, data_dir, image_size)
    splits = {"train": sources.train, "test": sources.test, "validation": sources.validation}
    return Dataset(
        name=sources.name,
        num_classes=num_classes,
        **{
            key: split and _read(split, shape, image_size, num_classes)
            for key, split in splits.items()
        },
    )


def tfds_shape(
    name: str, data_dir: str | None, image_size: int = 0
) -> tuple[tuple[int, int, int], int]:
    """(height, width, channels) and number of classes; the set need not be prepared.

    Raises:
      DatasetError: unknown, not an image-classification set, or of images that vary in size.
    """
    return _shape(_open(name, data_dir), image_size)


def _shape(builder, image_size: int) -> tuple[tuple[int, int, int], int]:
    image, label = _features(builder)
    features = builder.info.features
    shape = features[image].shape
    if image_size:
        shape = (image_size, image_size, shape[2])
    if None in shape:
        raise DatasetError(
            f"data set {builder.info.name!r} has images of varying size {shape}; choose one for "
            "all, e.g. --config.dataset.image_size=224"
        )
    return shape, features[label].num_classes


def _where(data_dir: str | None) -> str:
    """The directory where a set is looked for."""
    import tensorflow_datasets as tfds

    return os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)


def _open(name: str, data_dir: str | None):
    """The set's TFDS builder, from its code or from its prepared files."""
    import tensorflow_datasets as tfds

    where = _where(data_dir)
    try:
        return tfds.builder(name, data_dir=where)
    except tfds.core.registered.DatasetNotFoundError:
        raise DatasetError(
            f"data set {name!r} is neither 'digits' nor a set that TFDS knows, and none of that "
            f"name is prepared (with a dataset_info.json) in {where}"
        ) from None
    except Exception as error:  # a malformed name or dataset_info.json
        raise DatasetError(
            f"data set {name!r} in {where} cannot be opened: {one_line(error)}"
        ) from error


def _prepare(name: str, data_dir: str | None) -> None:
    """Downloads and prepares in a child process, which alone imports TensorFlow."""
    where = _where(data_dir)
    command = [sys.executable, "-m", "flaxres.data.prepare", f"--name={name}"]
    if data_dir is not None:
        command.append(f"--data_dir={data_dir}")
    shown = " ".join(["python", *command[1:]])
    if importlib.util.find_spec("tensorflow") is None:
        raise DatasetError(
            f"data set {name!r} is not prepared in {where}, and preparing it needs TensorFlow: "
            f"run `pip install -r requirements-prepare.txt`, then `{shown}`"
        )
    print(f"preparing {name} in {where} (once)", file=sys.stderr)
    if subprocess.run(command, check=False).returncode:
        raise DatasetError(
            f"data set {name!r} could not be prepared in {where} (see above); "
            f"with a network, run `{shown}`"
        )


def _features(builder) -> tuple[str, str]:
    """Names of the image and of the label among the set's features."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    names = [
        [key for key, feature in features.items() if isinstance(feature, kind)]
        for kind in (tfds.features.Image, tfds.features.ClassLabel)
    ]
    if builder.info.supervised_keys and len(builder.info.supervised_keys) == 2:
        image, label = builder.info.supervised_keys
        if image in names[0] and label in names[1]:
            return image, label
    if [len(found) for found in names] != [1, 1]:
        raise DatasetError(
            f"data set {builder.info.name!r} is not an image-classification set: it has the "
            f"features {', '.join(features)}"
        )
    return names[0][0], names[1][0]


def _source(builder, split: str) -> RecordSource:
    """The records of one split."""
    import tensorflow_datasets as tfds

    name = builder.info.name
    image_key, label_key = _features(builder)
    skip = {key: tfds.decode.SkipDecoding() for key in builder.info.features if key != label_key}
    try:
        records = builder.as_data_source(split=split, decoders=skip)
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
        ) from None
    except Exception as error:
        raise _damaged(builder, error) from error
    channels = builder.info.features[image_key].shape[2]
    where = f"{name} {split} in {builder.data_path}"
    return RecordSource(records, where, image_key, label_key, channels)


def _read(
    source: RecordSource, shape: tuple[int, int, int], image_size: int, num_classes: int
) -> Split:
    """Reads and decodes one split."""
    size = len(source)
    images = np.empty((size, *shape), np.uint8)
    labels = np.empty(size, np.int32)
    try:
        with make_progress_bar(disable=size < MIN_IMAGES_FOR_PROGRESS) as bar:
            starts = range(0, size, READ_BLOCK)
            for start in bar.track(starts, description=f"reading {source.name}"):
                rows = range(start, min(start + READ_BLOCK, size))
                for row, record in zip(rows, source.records.__getitems__(list(rows)), strict=True):
                    image = source.decode(record, row)
                    image = resize(image, image_size) if image_size else image
                    images[row] = np.asarray(image).reshape(shape)
                    labels[row] = record[source.label_key]
    except Exception as error:
        raise _incomplete(source.name, error) from error
    for row in np.flatnonzero((labels < 0) | (labels >= num_classes)):
        check_label(int(labels[row]), num_classes, source.describe(int(row)))
    return Split(images, labels)


def _damaged(builder, error: Exception) -> DatasetError:
    return _incomplete(f"{builder.info.name!r} in {builder.data_path}", error)


def _incomplete(name: str, error: Exception) -> DatasetError:
    return DatasetError(
        f"data set {name} is incomplete or damaged ({one_line(error)}); delete that directory and "
        "prepare the set again"
    )
