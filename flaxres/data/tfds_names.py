"""Names of TFDS data sets, checked before TFDS or TensorFlow is imported."""

from __future__ import annotations

import re

from flaxres.errors import DatasetError


def check_tfds_name(name: str) -> None:
    """Checks the form of a name; a data set of that name need not exist.

    Args:
      name: name in TFDS, such as 'cifar10', 'imagenet_resized/32x32' or 'cifar10:3.0.2'.

    Raises:
      DatasetError: TFDS would run code of a community, or read outside its data directory.
    """
    if re.match(r"[\w-]+:[^\W\d]", name):  # NAMESPACE:NAME; cifar10:3.0.2 is a version
        raise DatasetError(
            f"data set {name!r} is from a community, whose code TFDS would download and run; give "
            "the name of a data set of TFDS itself, or of a prepared one"
        )
    if {"", ".", ".."} & set(name.split("/")):
        raise DatasetError(
            f"the name of a data set must be NAME, NAME/CONFIG or NAME:VERSION, got {name!r}; its "
            "directory belongs in data_dir"
        )
