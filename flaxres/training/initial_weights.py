"""Pretrained weights that initialize a run (`config.init_from`), from another run or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flaxres.data import dataset_shape
from flaxres.errors import WeightsError
from flaxres.parallel.multihost import print_to_stderr
from flaxres.pretrained.load import (
    VARIABLES_SUFFIX,
    fit_variables,
    is_directory,
    read_weights_file,
)
from flaxres.run.workdir import CONFIG_FILE, read_run_config
from flaxres.training.restore import has_checkpoint, restore_newest

PyTree = Any


def load_pretrained_weights(
    path: Path,
    shapes: PyTree,
    model: ConfigDict,
    new_head: bool = False,
    std: Sequence[float] = (),
) -> PyTree:
    """Loads the variables of a model from the run or the file at `path`.

    Args:
      path: workdir of a run, whose newest checkpoint is used, or a file that
        `flaxres.pretrained.load.read_weights_file` reads.
      shapes: shapes of the variables, 'params' and 'batch_stats', as arrays or shape structs.
      model: config of the model, the field `model` of a run's config.
      new_head: if True, the classification head is left out and may have any shape.
      std: standard deviation by which the images of a PyTorch state dict were divided, one number
        per channel; empty for none, and for other kinds of weights.

    Returns:
      float32 arrays in the structure of `shapes`; without the head if `new_head`.

    Raises:
      WeightsError: `path` does not exist, cannot be read, or belongs to another model.
      UserError: the run cannot be read, or the model has no known PyTorch counterpart.
    """
    if not is_directory(path):
        variables = read_weights_file(path, shapes, model, new_head, std)
    elif std:
        raise WeightsError(
            f"transfer.image_std applies only to PyTorch state dicts, got the run {path}"
        )
    else:
        variables = read_run_variables(path)
    return fit_variables(variables, shapes, model, new_head, str(path))


def read_run_variables(directory: Path) -> dict[str, PyTree]:
    """Reads the variables of a run's newest checkpoint, without changing its directory.

    Args:
      directory: workdir of the run.

    Returns:
      'params' and 'batch_stats', with NumPy arrays as leaves.

    Raises:
      WeightsError: the directory holds no run, a run of several replicas, or no checkpoint.
      UserError: the config or the checkpoints of the run cannot be read.
    """
    if not (directory / CONFIG_FILE).exists():
        raise WeightsError(
            f"directory {directory} holds no run: there is no {CONFIG_FILE}. Give the workdir of a "
            f"run, a file of variables ({VARIABLES_SUFFIX}) or a PyTorch state dict."
        )
    config = read_run_config(directory)
    if config.num_replicas > 1:
        raise WeightsError(
            f"{directory} holds a run of {config.num_replicas} replicas. Weights can only be "
            "loaded from a run of a single model."
        )
    if not has_checkpoint(directory):
        raise WeightsError(f"run {directory} holds no checkpoint yet; train it first")
    image_shape, num_classes = dataset_shape(config.dataset)
    return restore_newest(directory, config, image_shape, num_classes, print_to_stderr).variables
