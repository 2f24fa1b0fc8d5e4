"""Mean image and class names of a trained model.

A run stores them in inputs.npz in its workdir, so that predictions do not need the data set. Runs
older than this file read them from their data set.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, Float32
from ml_collections import ConfigDict

from flaxres.data import open_dataset, open_sources
from flaxres.errors import DamagedFileError, DatasetError, WorkdirError, one_line
from flaxres.files import write_atomically
from flaxres.run.text_files import open_for_reading

INPUT_SPEC_FILE = "inputs.npz"
MAX_BYTES = 256 << 20  # of its arrays: a mean image of 4,700 x 4,700 pixels
MEAN_TOLERANCE = 1e-3  # of the range from 0 to 1, for rounding


@dataclasses.dataclass(frozen=True, eq=False)
class InputSpec:
    """Mean image and class names of a trained model.

    Attributes:
      mean: float32 (height, width, channels) in 0..1; subtracted from every image.
      class_names: names of the classes, ordered by label.
    """

    mean: Float32[np.ndarray, "height width channels"]
    class_names: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the model's images."""
        height, width, channels = self.mean.shape
        return height, width, channels

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def class_names(dataset_config: ConfigDict) -> tuple[str, ...]:
    """Returns the class names of a data set, ordered by label, without reading an image.

    Args:
      dataset_config: the data set, an experiment's `config.dataset`.

    Raises:
      DatasetError: the data set is unknown, missing or incomplete.
    """
    if dataset_config.classes:
        return tuple(dataset_config.classes)
    return open_sources(dataset_config).class_names


def make_input_spec(
    config: ConfigDict, mean: Float[np.ndarray, "height width channels"]
) -> InputSpec:
    """Returns the input spec of a run.

    Args:
      config: config of the run.
      mean: mean image of its training set in 0..1.

    Raises:
      DatasetError: the class names cannot be read.
    """
    return InputSpec(np.asarray(mean, np.float32), class_names(config.dataset))


def write_input_spec(workdir: Path, input_spec: InputSpec) -> None:
    """Writes inputs.npz.

    Raises:
      WorkdirError: the file cannot be written.
    """
    content = io.BytesIO()
    np.savez(content, mean=input_spec.mean, class_names=np.array(input_spec.class_names, np.str_))
    try:
        write_atomically(workdir / INPUT_SPEC_FILE, content.getvalue())
    except OSError as error:
        raise WorkdirError(
            f"workdir {workdir} cannot be written ({error.strerror}); choose another --workdir"
        ) from error


def store_input_spec(
    workdir: Path,
    config: ConfigDict,
    mean_image: Callable[[], Float[np.ndarray, "height width channels"]],
) -> None:
    """Writes the input spec of a run, unless its workdir has one.

    Args:
      workdir: directory of the run.
      config: config of the run.
      mean_image: returns the mean image, float32 (height, width, channels) in 0..1.

    Raises:
      UserError: the class names cannot be read, or the file cannot be written.
    """
    if not (workdir / INPUT_SPEC_FILE).exists():
        write_input_spec(workdir, make_input_spec(config, mean_image()))


def read_input_spec(workdir: Path, config: ConfigDict) -> InputSpec:
    """Reads the input spec of a run, or computes it from the data set if there is no file.

    Args:
      workdir: directory of the run.
      config: config of the run.

    Raises:
      DamagedFileError: the file is damaged.
      DatasetError: there is no file, and the data set cannot be read.
    """
    path = workdir / INPUT_SPEC_FILE
    try:
        with open_for_reading(path) as file:
            return _load(file)
    except FileNotFoundError:
        pass
    except DamagedFileError:
        raise
    except Exception as error:  # damaged bytes raise many types
        raise DamagedFileError(
            f"{path} is damaged ({one_line(error)}); remove it to recompute the mean image from "
            "the data set"
        ) from error
    try:
        return make_input_spec(config, open_dataset(config).mean_image())
    except DatasetError as error:
        raise DatasetError(
            f"{workdir} has no {INPUT_SPEC_FILE}, and its mean image cannot be computed: {error}"
        ) from error


def _load(file: BinaryIO) -> InputSpec:
    """Reads inputs.npz; damage raises an exception of any type."""
    with zipfile.ZipFile(file) as archive:  # reads at most the size that it gives for a file
        size = sum(entry.file_size for entry in archive.infolist())
    if size > MAX_BYTES:
        raise ValueError(f"its arrays must have at most {MAX_BYTES:,} bytes, not {size:,}")
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        mean, names = arrays["mean"], arrays["class_names"]
    if names.ndim != 1 or names.dtype.kind != "U" or names.size == 0:
        raise ValueError(f"'class_names' must be a list of text, got {names.dtype} {names.shape}")
    return checked_input_spec(mean, tuple(map(str, names)))


def checked_input_spec(mean: np.ndarray, class_names: tuple[str, ...]) -> InputSpec:
    """Returns an input spec from the arrays of a file.

    Raises:
      ValueError: the mean image has another dtype or shape, or other values than 0 to 1.
    """
    if mean.ndim != 3 or mean.dtype != np.float32 or mean.size == 0:
        raise ValueError(
            f"'mean' must be float32 (height, width, channels), got {mean.dtype} {mean.shape}"
        )
    if not np.all((mean >= -MEAN_TOLERANCE) & (mean <= 1 + MEAN_TOLERANCE)):
        raise ValueError("'mean' must be from 0 to 1")
    return InputSpec(mean, class_names)
