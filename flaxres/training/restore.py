"""Restoring of the newest checkpoint of a run, for use outside its training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from flaxres.errors import CheckpointError
from flaxres.models import create_model
from flaxres.parallel.replicas import seeds
from flaxres.run.checkpoint import Checkpoints
from flaxres.run.checkpoint_files import checkpoint_steps
from flaxres.training.optimizer import make_optimizer
from flaxres.training.train_state import TrainState, create_state


def train_state_shapes(
    config: ConfigDict, image_shape: tuple[int, int, int], num_classes: int
) -> TrainState:
    """Returns the shapes and dtypes of a run's train state, without computing it.

    Args:
      config: config of the run. With several replicas, every leaf has a leading axis for them.
      image_shape: (height, width, channels).
      num_classes: number of classes of the data set.
    """
    model = create_model(config.model, num_classes, config.dtype)
    create = functools.partial(create_state, model, make_optimizer(config), config, image_shape)
    if config.num_replicas > 1:
        return jax.eval_shape(jax.vmap(create), np.array(seeds(config), np.uint32))
    return jax.eval_shape(create, np.uint32(config.seed))


def has_checkpoint(directory: Path) -> bool:
    """Returns True if the run in a workdir has a checkpoint, without reading it.

    Raises:
      CheckpointError: the directory of the checkpoints cannot be read.
    """
    return bool(checkpoint_steps(directory))


def check_has_checkpoint(directory: Path) -> None:
    """Checks that the run in a workdir has a checkpoint, without reading it.

    Raises:
      CheckpointError: the run has no checkpoint.
    """
    if not has_checkpoint(directory):
        raise _no_checkpoint_error(directory)


def _no_checkpoint_error(directory: Path) -> CheckpointError:
    return CheckpointError(f"workdir {directory} holds no checkpoint yet")


def restore_newest(
    directory: Path,
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int,
    log: Callable[[str], None],
    step: int | None = None,
) -> TrainState:
    """Restores the newest valid checkpoint of a run, without changing its directory.

    Args:
      directory: workdir of the run.
      config: config of the run.
      image_shape: (height, width, channels).
      num_classes: number of classes of the data set.
      log: receives one line for each damaged checkpoint.
      step: step of the checkpoint (default: the newest one).

    Returns:
      The train state, with NumPy arrays as leaves.

    Raises:
      CheckpointError: the run has no checkpoint, or none that can be read, or not that of `step`.
    """
    with Checkpoints(directory) as checkpoints:
        shapes = train_state_shapes(config, image_shape, num_classes)
        if step is not None:
            return checkpoints.read(step, shapes)
        state = checkpoints.restore(shapes, log)
    if state is None:
        raise _no_checkpoint_error(directory)
    return state
