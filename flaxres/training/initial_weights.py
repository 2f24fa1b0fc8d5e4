"""Pretrained weights that a run starts from, `config.init_from`: those of a run or of a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flaxres.data import dataset_shape
from flaxres.errors import WeightsError
from flaxres.parallel.multihost import is_main_process
from flaxres.pretrained.load import SUFFIX, check_path, fit_variables, read_weights_file
from flaxres.run.checkpoint import Checkpoints
from flaxres.run.workdir import CONFIG_FILE, read_run_config
from flaxres.training.restore import restore_newest

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
      path: the workdir of a run, whose newest checkpoint is used, or a file that
        `flaxres.pretrained.load.read_weights_file` reads.
      shapes: shapes of the variables, 'params' and 'batch_stats', as arrays or shape structs.
      model: the model, an experiment's `config.model`.
      new_head: if True, the classification head is left out. It may then have any shape.
      std: see `read_weights_file`.

    Returns:
      float32 arrays in the structure of `shapes`; without the head if `new_head`.

    Raises:
      WeightsError: `path` does not exist, cannot be read, or belongs to another model.
      UserError: the run cannot be read, or the PyTorch names of the model are unknown.
    """
    if not check_path(path):
        found = read_weights_file(path, shapes, model, new_head, std)
    elif std:
        raise WeightsError(f"transfer.image_std is for PyTorch state dicts, and {path} is none")
    else:
        found = read_run_variables(path)
    return fit_variables(found, shapes, model, new_head, str(path))


def read_run_variables(directory: Path) -> dict[str, PyTree]:
    """Reads the variables of the newest checkpoint in a run's directory; changes nothing there.

    Raises:
      WeightsError: it is not the directory of a run of a single model with a checkpoint.
      UserError: its config or its checkpoints cannot be read.
    """
    if not (directory / CONFIG_FILE).exists():
        raise WeightsError(
            f"directory {directory} holds no run ({CONFIG_FILE}); give that of a run, a file of "
            f"variables ({SUFFIX}) or a PyTorch state dict"
        )
    config = read_run_config(directory)
    if config.num_replicas > 1:
        raise WeightsError(
            f"{directory} holds {config.num_replicas} replicas in one program; weights are taken "
            "from runs of a single net"
        )
    with Checkpoints(directory) as checkpoints:
        if not checkpoints.steps():
            raise WeightsError(f"run {directory} holds no checkpoint yet; train it first")
    image_shape, num_classes = dataset_shape(config.dataset)
    return restore_newest(directory, config, image_shape, num_classes, _log).variables


def _log(message: str) -> None:
    if is_main_process():
        print(message, file=sys.stderr)
