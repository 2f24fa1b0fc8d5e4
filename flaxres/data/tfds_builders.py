"""TFDS builders of image-classification sets, by the names of the data sets.

A data set that is not prepared yet is prepared by a child process (`flaxres.data.prepare`), the
only place that imports TensorFlow.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from typing import Any

from flaxres.data.child_process import run_child
from flaxres.data.record_source import damaged_error
from flaxres.data.tfds_names import OWN_DATASETS, check_tfds_name, split_jpeg_name
from flaxres.errors import DatasetError, first_few, one_line, printable
from flaxres.extras import install_command
from flaxres.field_checks import shown
from flaxres.prepared_data import list_prepared
from flaxres.suggestions import did_you_mean, nearest_names

MAX_NAMES = 10  # features that a message lists


def open_builder(name: str, data_dir: str | None) -> Any:
    """Returns the TFDS builder of a data set, from its code or from its prepared files.

    Args:
      name: name in TFDS, or that of a JPEG copy (`split_jpeg_name`). Need not be prepared.
      data_dir: directory of prepared data sets; None for the default of TFDS.

    Raises:
      DatasetError: the data set is unknown or its description is damaged, or its name is that of a
        JPEG copy of a data set that cannot be re-encoded.
    """
    check_tfds_name(name)
    import tensorflow_datasets as tfds

    directory = _data_dir(data_dir)
    try:
        return _find_builder(name, directory)
    except tfds.core.registered.DatasetNotFoundError:
        raise DatasetError(
            f"data set {shown(name)} is neither 'digits' nor a data set of TFDS, and no data set "
            f"of that name is prepared (with a dataset_info.json) in {directory}"
            f"{_suggest(name, directory)}"
        ) from None
    except DatasetError:
        raise
    except Exception as error:  # a malformed name or dataset_info.json
        raise DatasetError(
            f"data set {shown(name)} in {directory} cannot be opened: {one_line(error)}"
            f"{_suggest(name, directory)}"
        ) from error


def open_prepared(name: str, data_dir: str | None, copy: str | None = None) -> Any:
    """Returns the TFDS builder of a data set, and prepares the data set first if necessary.

    Args:
      name: as of `open_builder`.
      data_dir: as of `open_builder`.
      copy: name of the JPEG copy that is made of the data set, for the command in a message.

    Raises:
      DatasetError: as of `open_builder`; or the data set is incomplete, or cannot be prepared on
        this machine.
    """
    builder = open_builder(name, data_dir)
    if not is_prepared(builder):
        _prepare(builder, name, data_dir, copy or name)
        builder = open_builder(name, data_dir)
    return builder


def is_prepared(builder: Any) -> bool:
    """Returns True if the data set of a TFDS builder is prepared, False if it does not exist.

    Raises:
      DatasetError: the directory of the data set exists, but is incomplete.
    """
    if not builder.is_prepared() and builder.data_path.exists():
        raise damaged_error(name_with_path(builder), FileNotFoundError("no dataset_info.json"))
    return bool(builder.is_prepared())


def _find_builder(name: str, directory: str) -> Any:
    """Returns the builder of a data set of TFDS, of prepared files, or of a new JPEG copy."""
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=directory)
    except tfds.core.registered.DatasetNotFoundError:
        copy = split_jpeg_name(name)
        if copy is None:
            raise
    source_name, quality = copy
    source = tfds.builder(source_name, data_dir=directory)
    from flaxres.data.jpeg_copy import JpegCopy  # imports TFDS

    return JpegCopy(name, source, feature_keys(source)[0], quality, directory)


def _suggest(name: str, directory: str) -> str:
    """Returns '; did you mean NAME?' with own, prepared and TFDS's data sets, and their copies."""
    import tensorflow_datasets as tfds

    known = list_prepared(directory) + tfds.list_builders(with_community_datasets=False)
    stem, suffix, _ = name.casefold().partition("_jpeg")
    if suffix and stem in known:
        return did_you_mean(name, [f"{stem}_jpeg"])
    sources = nearest_names(stem, known) if suffix else []
    copies = [f"{source}_jpeg" for source in sources if "/" not in source]
    return did_you_mean(name, [*OWN_DATASETS, *known, *copies])


def _prepare(builder: Any, name: str, data_dir: str | None, requested_name: str) -> None:
    """Prepares a data set in a child process, which downloads it or re-encodes its source.

    Messages show the command that prepares the data set that was requested.
    """
    directory = _data_dir(data_dir)
    place = [] if data_dir is None else [f"--data_dir={data_dir}"]
    shown_command = shlex.join(["flaxres", "prepare", f"--name={requested_name}", *place])
    source = getattr(builder, "source", builder)  # a JPEG copy only needs its prepared source
    if not source.is_prepared() and importlib.util.find_spec("tensorflow") is None:
        raise DatasetError(
            f"data set {name!r} is not prepared in {directory}, and preparing it needs TensorFlow: "
            f"run `{install_command('prepare')}`, then `{shown_command}`; if it is prepared "
            "elsewhere, name that directory (--data_dir of prepare and analyze, "
            "--config.dataset.data_dir of training and evaluation)"
        )
    print(printable(f"preparing {name} in {directory} (only once)"), file=sys.stderr)
    command = [sys.executable, "-m", "flaxres.data.prepare", f"--name={name}", *place]
    if run_child(command):
        hint = f"; on a machine with network access, run `{shown_command}`"
        raise DatasetError(
            f"data set {name!r} could not be prepared in {directory} (see above)"
            f"{'' if source.is_prepared() else hint}"
        )


def feature_keys(builder: Any) -> tuple[str, str]:
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
            f"features {first_few(list(features), MAX_NAMES)}"
        )
    return image_keys[0], label_keys[0]


def name_with_path(builder: Any) -> str:
    """Returns the name and the directory of a data set, for messages."""
    return f"{builder.info.name!r} in {builder.data_path}"


def _data_dir(data_dir: str | None) -> str:
    """Returns the directory of prepared data sets."""
    import tensorflow_datasets as tfds

    return os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)
