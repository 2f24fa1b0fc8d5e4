"""What a trained net needs beside its weights to be used: the mean image and the classes' names.

A run keeps them in its workdir, in inputs.npz, so that predictions need no data set. Of a run that
is older than this file they are taken from its data set.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from flaxres.data import open_dataset, open_sources
from flaxres.errors import DatasetError, WorkdirError, one_line
from flaxres.run.workdir import write_atomically

INPUT_SPEC_FILE = "inputs.npz"


@dataclasses.dataclass(frozen=True, eq=False)
class InputSpec:
    """What a net takes, and what its outputs are called.

    Attributes:
      mean: float32 (height, width, channels) of the net's images, in 0..1: what is subtracted.
      class_names: by label.
    """

    mean: np.ndarray
    class_names: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.mean.shape

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.class_names)


def class_names(config: ConfigDict) -> tuple[str, ...]:
    """Names of the classes of a data set (`config.dataset`), by label; no image is read.

    Raises:
      DatasetError: see `flaxres.data.open_sources`.
    """
    if config.classes:
        return tuple(config.classes)
    return open_sources(config).class_names


def make_input_spec(config: ConfigDict, mean: np.ndarray) -> InputSpec:
    """Those of a run, with the mean image of its data set.

    Raises:
      DatasetError: the classes are not known.
    """
    return InputSpec(np.asarray(mean, np.float32), class_names(config.dataset))


def write_input_spec(workdir: Path, inputs: InputSpec) -> None:
    """Keeps them in a run's directory.

    Raises:
      WorkdirError: they cannot be written.
    """
    content = io.BytesIO()
    np.savez(content, mean=inputs.mean, class_names=np.array(inputs.class_names, np.str_))
    try:
        write_atomically(workdir / INPUT_SPEC_FILE, content.getvalue())
    except OSError as error:
        raise WorkdirError(
            f"workdir {workdir} cannot be written ({error.strerror}); choose another --workdir"
        ) from error


def store_input_spec(workdir: Path, config: ConfigDict, mean: Callable[[], np.ndarray]) -> None:
    """Keeps those of a run in its directory, unless they are there.

    Args:
      workdir: of the run.
      config: of the run.
      mean: returns the mean image, float32 (height, width, channels) in 0..1.

    Raises:
      UserError: the classes are not known, or the file cannot be written.
    """
    if not (workdir / INPUT_SPEC_FILE).exists():
        write_input_spec(workdir, make_input_spec(config, mean()))


def read_input_spec(workdir: Path, config: ConfigDict) -> InputSpec:
    """Those that a run keeps; of an older run, those of its data set.

    Raises:
      WorkdirError: the file is damaged.
      DatasetError: there is no file, and the data set cannot be read.
    """
    path = workdir / INPUT_SPEC_FILE
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, names = file["mean"], tuple(map(str, file["class_names"]))
        if mean.ndim != 3 or mean.dtype != np.float32:
            raise ValueError(f"mean is {mean.dtype} {mean.shape}")
        return InputSpec(mean, names)
    except FileNotFoundError:
        pass
    except Exception as error:  # many kinds, where bytes are damaged
        raise WorkdirError(
            f"{path} is damaged ({one_line(error)}); remove it, and the mean image is computed "
            "from the data set"
        ) from error
    try:
        return make_input_spec(config, open_dataset(config).mean_image())
    except DatasetError as error:
        raise DatasetError(
            f"{workdir} has no {INPUT_SPEC_FILE}, and its mean image cannot be computed: {error}"
        ) from error
