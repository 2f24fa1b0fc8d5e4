"""Prepared TFDS data sets in a directory, found by their files without importing TFDS."""

from __future__ import annotations

import os
from pathlib import Path

INFO_FILE = "dataset_info.json"


def default_data_dir() -> str:
    """Returns the directory in which TFDS keeps data sets, if `dataset.data_dir` is None."""
    return os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")


def list_prepared(directory: str | Path) -> list[str]:
    """Returns the names of the prepared data sets in a directory, sorted.

    Args:
      directory: data_dir of TFDS; it need not exist.

    Returns:
      Names such as 'cifar10' or 'imagenet_resized/32x32', each once for all of its versions.
    """
    root = Path(os.path.expanduser(directory))
    names = set()
    try:
        for pattern in ("*/*/", "*/*/*/"):  # NAME/VERSION and NAME/CONFIG/VERSION
            names |= {path.parent.parent for path in root.glob(pattern + INFO_FILE)}
    except OSError:
        return []
    return sorted(path.relative_to(root).as_posix() for path in names)
