"""Trained models from files of weights, without the workdir of a run: `load_pretrained`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flaxres.config import check_config, flatten, model_name
from flaxres.data import open_dataset
from flaxres.errors import ConfigError, DatasetError, WeightsError
from flaxres.inference.trained_model import (
    TrainedModel,
    check_batch_stats,
    load_run_config,
    load_trained_model,
    with_population_statistics,
)
from flaxres.models import create_model
from flaxres.overrides import override_fields
from flaxres.pretrained.load import fit_variables
from flaxres.pretrained.sources import Kind, find_source, is_directory, source_kind
from flaxres.pretrained.stride_on import resolve_stride
from flaxres.pretrained.weights_file import Weights, read_weights, write_weights
from flaxres.run.input_spec import InputSpec, make_input_spec
from flaxres.run.workdir import CHANGEABLE_FIELDS, differing_fields
from flaxres.training.initial_weights import load_pretrained_weights
from flaxres.training.restore import train_state_shapes


def load_pretrained(
    source: str | Path,
    config: ConfigDict | None = None,
    log: Callable[[str], None] = print,
    batch_stats: str = "running",
    overrides: Mapping[str, Any] | None = None,
    ema: bool = False,
) -> TrainedModel:
    """Loads a trained model from a file of weights or by its name.

    Args:
      source: a weights file (NAME.safetensors), the name of pretrained weights of flaxres
        (`flaxres.pretrained.sources.SHIPPED`), the directory of a run, or, with a config, a file of
        variables (NAME.msgpack) or a PyTorch state dict.
      config: for weights with a config of their own, fields of the data set and of the evaluation
        that replace the stored ones; the model must be the same. For other files it describes the
        model and the data set, from which class names and mean image are read; `config.transfer`
        describes a state dict as it does in training.
      log: receives one line for each damaged checkpoint, and one if population statistics are those
        of changed data.
      batch_stats: statistics that norms use: 'running', or 'population', recomputed over the
        training set.
      overrides: fields that replace those of `config` or of the stored config by dotted name, such
        as {'dataset.data_dir': DIR}.
      ema: if True, loads the moving average of a run's weights; a file has one set of weights.

    Raises:
      UserError: there is no such file or name; it cannot be read or belongs to another model; a
        config or a data set is needed; or there is no average.
    """
    check_batch_stats(batch_stats)
    given, overrides = str(source), overrides or {}
    path = find_source(given)
    is_run = is_directory(path, "--weights")
    if ema and not is_run:
        raise ConfigError(
            f"--ema (ema=True) needs a run with an average of its weights; {given} has one set of "
            "weights, so leave it out"
        )
    if config is not None:
        config = config.copy_and_resolve_references()
    elif is_run and overrides:
        config = load_run_config(path)
    if config is not None:
        override_fields(config, overrides)
        if not is_run:
            config.init_from = str(path)  # fields of config.transfer describe a state dict
        check_config(config)
    if is_run:
        return load_trained_model(path, config, log, batch_stats, ema=ema)
    if source_kind(path) is Kind.WEIGHTS:
        weights = read_weights(path)
        if config is None:
            config = _overridden(given, weights.config, overrides)
        _check_same_model(given, weights.config, config)
        trained = _from_weights_file(given, path, weights, config)
    elif config is None:
        raise ConfigError(
            f"--config is missing; {given} is a {source_kind(path).value}, which does not name its "
            "model and data set. Give --config=FILE.py:MODEL."
        )
    else:
        trained = _from_other_file(given, path, config)
    return with_population_statistics(trained, log) if batch_stats == "population" else trained


def save_weights(trained: TrainedModel, path: Path) -> None:
    """Writes a trained model to a weights file, NAME.safetensors.

    Raises:
      OSError: the file cannot be written.
    """
    content = (trained.config, trained.step, trained.variables, trained.input_spec, trained.errors)
    write_weights(path, Weights(*content, ema=trained.ema))


def _is_replaceable(field: str) -> bool:
    """Returns True if a config field concerns the data set or the evaluation of a model."""
    return field in (*CHANGEABLE_FIELDS, "dtype") or field.startswith("dataset.")


def _overridden(given: str, stored: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """Returns the config of a weights file with overrides.

    Raises:
      ConfigError: an override is invalid, or describes how the model was trained.
    """
    config = stored.copy_and_resolve_references()
    override_fields(config, overrides)
    check_config(config)
    flat, changed = flatten(stored), flatten(config)
    for field in changed:
        if changed[field] != flat[field] and not _is_replaceable(field):
            raise ConfigError(
                f"{field} cannot be changed, because {given} was trained with {flat[field]!r}, got "
                f"{changed[field]!r}"
            )
    return config


def _from_weights_file(
    given: str, path: Path, weights: Weights, config: ConfigDict
) -> TrainedModel:
    """Returns the model of a weights file, with the data set and devices of `config`."""
    merged = weights.config.copy_and_resolve_references()
    fields = {
        field: tuple(value) if isinstance(value, list) else value
        for field, value in flatten(config).items()
        if _is_replaceable(field)
    }
    merged.update_from_flattened_dict(fields)
    input_spec = weights.input_spec
    state = train_state_shapes(merged, input_spec.image_shape, input_spec.num_classes)
    variables = fit_variables(weights.variables, state.variables, merged.model, False, str(path))
    model = create_model(merged.model, input_spec.num_classes, merged.dtype)
    return TrainedModel(
        Path(given),
        merged,
        weights.step,
        variables,
        input_spec,
        model,
        errors=weights.errors,
        ema=weights.ema,
    )


def _check_same_model(given: str, stored: ConfigDict, config: ConfigDict) -> None:
    """Checks that a config has the model of a weights file.

    Raises:
      ConfigError: it has another one.
    """
    fields = differing_fields(flatten(stored.model, "model."), flatten(config.model, "model."))
    if fields:
        name = fields[0].removeprefix("model.")
        raise ConfigError(
            f"{given} holds {model_name(stored.model)}, but --config describes "
            f"{model_name(config.model)} ({fields[0]} is {config.model[name]!r} instead of "
            f"{stored.model[name]!r}); leave out --config to use the config of the weights"
        )


def _from_other_file(given: str, path: Path, config: ConfigDict) -> TrainedModel:
    """Returns the model of a file of variables or a state dict, which a config describes.

    Raises:
      ConfigError: a field of the config does not apply.
      WeightsError: the file cannot be read or belongs to another model.
      DatasetError: class names and mean image cannot be read.
    """
    if config.num_replicas > 1 or config.transfer.new_head:
        field = "num_replicas" if config.num_replicas > 1 else "transfer.new_head"
        raise ConfigError(f"{field} cannot be used with --weights, which loads one whole model")
    config = resolve_stride(config)
    input_spec = _input_spec(given, config)
    state = train_state_shapes(config, input_spec.image_shape, input_spec.num_classes)
    shapes = {"params": state.params, "batch_stats": state.batch_stats}
    transfer, size = config.transfer, input_spec.image_shape[:2]
    options = (False, transfer.image_std, transfer.shortcut_padding, size)
    try:
        variables = load_pretrained_weights(path, shapes, config.model, *options)
    except WeightsError as error:
        raise WeightsError(str(error).partition("; to train on other classes")[0]) from error
    model = create_model(config.model, input_spec.num_classes, config.dtype)
    return TrainedModel(Path(given), config, 0, variables, input_spec, model)


def _input_spec(given: str, config: ConfigDict) -> InputSpec:
    try:
        return make_input_spec(config, open_dataset(config).mean_image())
    except DatasetError as error:
        raise DatasetError(
            f"{given} has no class names and no mean image, and the data set of --config, which "
            f"has them, cannot be read: {error}"
        ) from error
