"""Names of TFDS data sets, checked before TFDS or TensorFlow is imported."""

from __future__ import annotations

import re

from flaxres.errors import DatasetError
from flaxres.field_checks import shown

JPEG_QUALITY = 75  # where a name has none; the default of libjpeg
OWN_DATASETS = ("digits", "folder")  # not of TFDS
_JPEG_NAME = re.compile(r"(\w+)_jpeg(\d*)", re.ASCII)


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


def split_jpeg_name(name: str) -> tuple[str, int] | None:
    """Splits the name of a copy with JPEG images: SOURCE_jpeg or SOURCE_jpegQUALITY.

    Args:
      name: name of a data set, such as 'cifar10_jpeg' or 'cifar10_jpeg50'.

    Returns:
      Name of the source and quality, such as ('cifar10', 75) or ('cifar10', 50); None for a name of
      another form.

    Raises:
      DatasetError: the quality is not one of libjpeg, 1 to 100, or has leading zeros, which would
        be a second name for the same copy.
    """
    match = _JPEG_NAME.fullmatch(name)
    if not match:
        return None
    quality = match[2] or str(JPEG_QUALITY)
    if not re.fullmatch(r"[1-9]\d?|100", quality):
        zeros = "; it has no leading zeros" if re.match("0[0-9]", quality) else ""
        raise DatasetError(
            f"the JPEG quality in the name of a data set must be 1 to 100, got {shown(name)}{zeros}"
        )
    return match[1], int(quality)
