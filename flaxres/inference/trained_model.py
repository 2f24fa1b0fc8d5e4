"""Trained nets: what evaluation, prediction and export take of runs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from flaxres.config import check_config, model_name
from flaxres.data import StreamedDataset, open_dataset
from flaxres.errors import CheckpointError, ConfigError
from flaxres.inference.population_statistics import (
    BATCH_STATS,
    check_has_statistics,
    population_statistics,
)
from flaxres.models import create_model
from flaxres.models.layers import BaseModel
from flaxres.run.input_spec import InputSpec, read_input_spec
from flaxres.run.workdir import CONFIG_FILE, check_same_config, read_run_config
from flaxres.training.restore import check_has_checkpoint, restore_newest

# Fields in which the nets of an ensemble must agree; where the data lies may differ.
SAME_DATA = (
    *("name", "train_split", "test_split", "validation_split", "classes"),
    *("image_size", "eval_short_side"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
    """The newest checkpoint of a run.

    Attributes:
      directory: of the run.
      config: of the run.
      step: steps of training done.
      variables: 'params' and 'batch_stats', float32.
      inputs: mean image and class names.
      model: the net, as it was trained.
    """

    directory: Path
    config: ConfigDict
    step: int
    variables: dict
    inputs: InputSpec
    model: BaseModel

    @property
    def name(self) -> str:
        """Net and directory, for messages."""
        return f"{model_name(self.config.model)} in {self.directory}"

    def check_shapes(self, sizes: Sequence[tuple[int, int]], what: str) -> None:
        """Checks that the net takes images of these heights and widths.

        Args:
          sizes: of the images.
          what: asks for them, for the message.

        Raises:
          ConfigError: its dense layers are for the size that it was trained with, or the images
            are too small for its strides.
        """
        own = jax.tree.map(np.shape, self.variables["params"])
        for size in sizes:
            if self._params_shape(size, what) != own:
                height, width, _ = self.inputs.image_shape
                raise ConfigError(
                    f"{what} is not for {self.name}: its dense layers take images of {height} x "
                    f"{width} pixels alone; choose center or 10-crop"
                )

    def _params_shape(self, size: tuple[int, int], what: str) -> dict:
        images = jax.ShapeDtypeStruct((1, *size, self.inputs.image_shape[2]), np.float32)
        init = functools.partial(self.model.init, train=False)
        try:
            variables = jax.eval_shape(init, jax.random.key(0), images)
        except ConfigError as error:
            reason = str(error).partition(";")[0]
            raise ConfigError(f"{what} is not for {self.name}: {reason}") from None
        return jax.tree.map(lambda leaf: leaf.shape, variables["params"])


def run_config(directory: Path) -> ConfigDict:
    """The config that a run keeps.

    Raises:
      CheckpointError: there is no run.
      WorkdirError: its config cannot be read.
    """
    if not (directory / CONFIG_FILE).exists():
        raise _no_run(directory)
    return read_run_config(directory)


def _no_run(directory: Path) -> CheckpointError:
    return CheckpointError(f"workdir {directory} holds no run; train it first with --mode=train")


def load_trained_model(
    directory: Path,
    config: ConfigDict | None = None,
    log: Callable[[str], None] = print,
    batch_stats: str = "running",
) -> TrainedModel:
    """The newest checkpoint of a run; nothing in its directory is changed.

    Args:
      directory: of the run.
      config: of the run; None for the one that it keeps.
      say: told in one line about each damaged checkpoint.
      batch_stats: the norms' statistics: 'running', or 'population' (`flaxres.inference.population_statistics`), which
        reads the data set.

    Raises:
      UserError: there is no run, no checkpoint, or several replicas in one; the run is of another
        config; it has no such statistics; or the data set is needed and cannot be read.
    """
    if batch_stats not in BATCH_STATS:
        raise ConfigError(f"batch_stats must be {' or '.join(BATCH_STATS)}, got {batch_stats!r}")
    config = run_config(directory) if config is None else config
    check_config(config)
    if batch_stats == "population":
        check_has_statistics(config)
    if not check_same_config(directory, config):
        raise _no_run(directory)
    if config.num_replicas > 1:
        raise ConfigError(
            f"{directory} holds num_replicas={config.num_replicas} nets in one program; this is "
            "for runs of a single net"
        )
    check_has_checkpoint(directory)
    inputs = read_input_spec(directory, config)
    model = create_model(config.model, inputs.num_classes, config.dtype)
    state = restore_newest(directory, config, inputs.image_shape, inputs.num_classes, log)
    variables = state.variables
    if batch_stats == "population":
        dataset = open_dataset(config)
        if isinstance(dataset, StreamedDataset):
            raise ConfigError(
                f"population statistics are for data sets on the device, but {dataset.name} is "
                "streamed; choose --batch_stats=running"
            )
        statistics = population_statistics(config, dataset, variables)
        variables = variables | {"batch_stats": statistics}
    return TrainedModel(directory, config, int(state.step), variables, inputs, model)


def check_same_data(nets: Sequence[TrainedModel], config: ConfigDict) -> None:
    """Checks that nets can be averaged: the same images and classes as those of `config`.

    Raises:
      ConfigError: says in what they differ.
    """
    first = nets[0]
    for net in nets:
        there, here = net.config.dataset, config.dataset
        differences = [
            f"dataset.{field} is {there[field]!r} there and {here[field]!r} here"
            for field in SAME_DATA
            if there[field] != here[field]
        ]
        if net.inputs.class_names != first.inputs.class_names:
            differences.append(f"its classes are others than those of {first.directory}")
        if net.inputs.image_shape != first.inputs.image_shape:
            differences.append(
                f"its images are {net.inputs.image_shape} there and {first.inputs.image_shape} here"
            )
        if differences:
            raise ConfigError(
                f"nets of an ensemble must have the same data set and classes, but of "
                f"{net.directory} {'; '.join(differences)}"
            )
