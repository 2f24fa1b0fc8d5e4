"""Trained models: the newest checkpoints of runs, loaded for evaluation, prediction and export.

`flaxres.inference.pretrained` loads models from files of weights instead.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Float32
from ml_collections import ConfigDict

from flaxres.config import check_config, model_name
from flaxres.data import StreamedDataset, open_dataset, open_sources
from flaxres.errors import CheckpointError, ConfigError
from flaxres.inference.population_statistics import (
    BATCH_STATS,
    check_has_statistics,
    population_statistics,
)
from flaxres.models import create_model
from flaxres.models.layers import BaseModel
from flaxres.pretrained.stride_on import resolve_stride
from flaxres.run.data_record import report_changed_data
from flaxres.run.input_spec import InputSpec, read_input_spec
from flaxres.run.records import last_record
from flaxres.run.workdir import CONFIG_FILE, check_no_sweep, check_same_config, read_run_config
from flaxres.suggestions import did_you_mean, similar_directory
from flaxres.training.restore import check_has_checkpoint, restore_newest
from flaxres.training.weight_average import EMA_PREFIX, evaluated_states

# Fields of config.dataset in which the models of an ensemble must agree. Not data_dir: copies of a
# data set may lie in different directories.
ENSEMBLE_FIELDS = (
    *("name", "train_split", "test_split", "validation_split", "classes"),
    *("image_size", "eval_short_side"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model with trained variables.

    Attributes:
      source: directory of the run, file of the weights, or name of pretrained weights of flaxres.
      config: config of the run.
      step: number of training steps done.
      variables: collections 'params' and 'batch_stats', float32.
      input_spec: mean image and class names.
      model: the Flax module.
      batch_stats: statistics that norms use, 'running' or 'population'.
      errors: percentages after `step`, 'train_error' (as training logged it) and 'test_error'; {}
        if they are unknown. Average weights have no 'train_error'.
      ema: True if the variables are the moving average of those of the run (`config.ema_decay`).
    """

    source: Path
    config: ConfigDict
    step: int
    variables: dict[str, Any]
    input_spec: InputSpec
    model: BaseModel
    batch_stats: str = "running"
    errors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    ema: bool = False

    @property
    def name(self) -> str:
        """Name of the model and its source, for messages."""
        weights = " (average weights)" if self.ema else ""
        return f"{model_name(self.config.model)} in {self.source}{weights}"

    def logits(
        self, variables: dict[str, Any], images: Float[Array, "batch height width channels"]
    ) -> Float32[Array, "batch classes"]:
        """Returns the logits of normalized images under `variables`, in evaluation mode."""
        logits: Any = self.model.apply(variables, images, train=False)
        return logits

    def check_input_sizes(self, sizes: Sequence[tuple[int, int]], requested_by: str) -> None:
        """Checks that the model accepts images of these sizes.

        Args:
          sizes: (height, width) of each, in pixels.
          requested_by: the option that needs these sizes, for the message.

        Raises:
          ConfigError: the model's dense layers require the size that it was trained with, or the
            images are too small for its strides.
        """
        expected_shapes = jax.tree.map(np.shape, self.variables["params"])
        for size in sizes:
            if self._params_shapes(size, requested_by) != expected_shapes:
                height, width, _ = self.input_spec.image_shape
                raise ConfigError(
                    f"{requested_by} does not work for {self.name}: its dense layers accept only "
                    f"images of {height} x {width} pixels; choose center or 10-crop"
                )

    def _params_shapes(self, size: tuple[int, int], requested_by: str) -> dict[str, Any]:
        """Returns the shapes of the parameters that the model would create for this input size."""
        images = jax.ShapeDtypeStruct((1, *size, self.input_spec.image_shape[2]), np.float32)
        init = functools.partial(self.model.init, train=False)
        try:
            variables = jax.eval_shape(init, jax.random.key(0), images)
        except ConfigError as error:
            reason = str(error).partition(";")[0]  # what follows is advice for training
            raise ConfigError(f"{requested_by} does not work for {self.name}: {reason}") from None
        return jax.tree.map(lambda leaf: leaf.shape, variables["params"])


def load_run_config(directory: Path) -> ConfigDict:
    """Returns the config stored in the directory of a run.

    Raises:
      CheckpointError: the directory holds no run.
      WorkdirError: the config cannot be read.
    """
    if not (directory / CONFIG_FILE).exists():
        check_no_sweep(directory)
        raise no_run_error(directory)
    return read_run_config(directory)


def no_run_error(directory: Path) -> CheckpointError:
    """Returns the error for a directory without a run, which may be missing or lie inside one."""
    if not directory.exists():
        hint = similar_directory(directory) or "; check --workdir"
        return CheckpointError(f"workdir {directory} does not exist{hint}")
    if run := next((p for p in directory.parents if (p / CONFIG_FILE).exists()), None):
        return CheckpointError(
            f"workdir {directory} lies inside the run {run}; use --workdir={run}"
        )
    return CheckpointError(f"workdir {directory} holds no run; train it first with --mode=train")


def check_batch_stats(batch_stats: str) -> None:
    """Checks the name of the statistics that norms use.

    Raises:
      ConfigError: there are no such statistics.
    """
    if batch_stats not in BATCH_STATS:
        raise ConfigError(
            f"batch_stats must be {' or '.join(BATCH_STATS)}, got {batch_stats!r}"
            f"{did_you_mean(batch_stats, BATCH_STATS)}"
        )


def load_trained_model(
    directory: Path,
    config: ConfigDict | None = None,
    log: Callable[[str], None] = print,
    batch_stats: str = "running",
    step: int | None = None,
    ema: bool = False,
) -> TrainedModel:
    """Loads the newest checkpoint of a run; changes nothing in its directory.

    Args:
      directory: directory of the run.
      config: config of the run, or None for the config stored in `directory`.
      log: receives one line for each damaged checkpoint, and one if population statistics are those
        of changed data.
      batch_stats: statistics that norms use: 'running' from the checkpoint, or 'population',
        recomputed over the training set (`flaxres.inference.population_statistics`).
      step: step of the checkpoint (default: the newest one).
      ema: if True, the variables are the moving average that the run keeps (`config.ema_decay`).

    Raises:
      UserError: there is no run or no checkpoint; the run has another config or several replicas;
        the model has no population statistics or the run no average; or the data set is needed and
        cannot be read or has other classes.
    """
    check_batch_stats(batch_stats)
    config = load_run_config(directory) if config is None else config
    check_config(config)
    if batch_stats == "population":
        check_has_statistics(config)
    if not check_same_config(directory, config, is_training=False):
        raise no_run_error(directory)
    check_has_average(directory, config, ema)
    config = resolve_stride(config, directory)
    if config.num_replicas > 1:
        raise ConfigError(
            f"{directory} holds {config.num_replicas} models trained in one program "
            f"(num_replicas={config.num_replicas}), of which none can be loaded by itself; train "
            "each seed as a run of its own"
        )
    check_has_checkpoint(directory)
    input_spec = read_input_spec(directory, config)
    model = create_model(config.model, input_spec.num_classes, config.dtype)
    shape, num_classes = input_spec.image_shape, input_spec.num_classes
    state = restore_newest(directory, config, shape, num_classes, log, step)
    num_steps = int(state.step)
    if ema:
        state = evaluated_states(state)[EMA_PREFIX]
    errors = {} if batch_stats == "population" else _logged_errors(directory, num_steps, ema)
    trained = TrainedModel(
        directory, config, num_steps, state.variables, input_spec, model, errors=errors, ema=ema
    )
    return with_population_statistics(trained, log) if batch_stats == "population" else trained


def check_has_average(directory: Path, config: ConfigDict, ema: bool = True) -> None:
    """Checks that a run keeps a moving average of its weights, if `ema` is True.

    Raises:
      ConfigError: it does not.
    """
    if ema and not config.ema_decay:
        raise ConfigError(
            f"{directory} was trained without an average of its weights (ema_decay is 0); leave "
            "out --ema (ema=True)"
        )


def _logged_errors(directory: Path, step: int, ema: bool = False) -> dict[str, float]:
    """Returns the errors that a run logged after `step` steps, in percent; {} if there are none."""
    record = last_record(directory)
    if record is None or record["step"] != step:
        return {}
    if ema:
        name = f"{EMA_PREFIX}test_error"
        return {"test_error": record[name]} if name in record else {}
    return {name: record[name] for name in ("train_error", "test_error") if name in record}


def with_population_statistics(
    trained: TrainedModel, log: Callable[[str], None] = print
) -> TrainedModel:
    """Returns a model whose norms use statistics that are recomputed over the training set.

    Args:
      trained: the model.
      log: receives one line if the training set has changed since the training.

    Raises:
      UserError: the model has no population statistics, or the data set cannot be read, is streamed
        or has other classes.
    """
    config = trained.config
    check_has_statistics(config)
    sources = open_sources(config.dataset)
    report_changed_data(trained.source, trained.input_spec.class_names, sources, log)
    dataset = open_dataset(config, sources)
    if isinstance(dataset, StreamedDataset):
        raise ConfigError(
            "population statistics need a data set that is stored on the device, but "
            f"{dataset.name} is streamed; choose --batch_stats=running"
        )
    statistics = population_statistics(config, dataset, trained.variables)
    variables = trained.variables | {"batch_stats": statistics}
    return dataclasses.replace(trained, variables=variables, batch_stats="population", errors={})


def check_same_data(trained_models: Sequence[TrainedModel], config: ConfigDict) -> None:
    """Checks that models can be averaged: all have the data set of `config` and the same classes.

    Raises:
      ConfigError: the models differ; the message lists the differences.
    """
    first = trained_models[0]
    for trained in trained_models:
        given, expected = trained.config.dataset, config.dataset
        differences = [
            f"dataset.{field} is {given[field]!r} instead of {expected[field]!r}"
            for field in ENSEMBLE_FIELDS
            if given[field] != expected[field]
        ]
        if trained.input_spec.class_names != first.input_spec.class_names:
            differences.append(f"its classes differ from those of {first.source}")
        if trained.input_spec.image_shape != first.input_spec.image_shape:
            differences.append(
                f"its images are {trained.input_spec.image_shape} instead of "
                f"{first.input_spec.image_shape}"
            )
        if differences:
            raise ConfigError(
                "the models of an ensemble must have the same data set and classes; in "
                f"{trained.source}, {'; '.join(differences)}"
            )
