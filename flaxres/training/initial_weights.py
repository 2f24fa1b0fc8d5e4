"""Pretrained weights that initialize a run (`config.init_from`), from another run or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flaxres.config import model_name
from flaxres.data import dataset_shape
from flaxres.errors import ConfigError, DatasetError, WeightsError
from flaxres.models.blocks import STRIDES_ON
from flaxres.parallel.multihost import print_to_stderr
from flaxres.pretrained import torch_file, torch_state_dict
from flaxres.pretrained.load import VARIABLES_SUFFIX, fit_variables, read_variables
from flaxres.pretrained.sources import Kind, find_source, is_directory, source_kind
from flaxres.pretrained.weights_file import read_weights
from flaxres.run.input_spec import INPUT_SPEC_FILE, read_input_spec
from flaxres.run.workdir import CONFIG_FILE, read_run_config
from flaxres.training.restore import has_checkpoint, restore_newest

PyTree = Any

# Fields of `config.model` that change what a model computes, but not the shapes of its arrays.
FUNCTION_FIELDS = (
    "name",
    "shortcut",
    "shortcut_scale",
    "stride_on",
    "drop_path",
    "drop_path_scope",
    "pool_projections",
    "anti_alias",
    "activation",
    "tailored_eta",
    "norm",
    "norm_epsilon",
    "skip",
)


def weights_path(config: ConfigDict) -> Path:
    """Returns the file or directory of a run's pretrained weights.

    Args:
      config: config of the run, whose `init_from` is set.

    Raises:
      WeightsError: the path begins with the home directory of an unknown user, or
        pretrained weights of flaxres are damaged.
    """
    return find_source(config.init_from)


def check_pretrained_weights(config: ConfigDict) -> None:
    """Checks all about the weights of `config.init_from` that needs neither data nor their content.

    Args:
      config: config of the run, whose `init_from` is set.

    Raises:
      WeightsError: there is no such file or run, or a field of `config.transfer` does not apply.
      ConfigError: a state dict of the model cannot be read, or needs a field that is not given.
    """
    path, transfer = weights_path(config), config.transfer
    if is_directory(path):
        _check_run(path)
    if source_kind(path) is Kind.STATE_DICT:
        torch_state_dict.check_options(config.model, transfer.shortcut_padding)
    else:
        _check_no_state_dict_options(path, transfer.image_std, transfer.shortcut_padding)


def load_pretrained_weights(
    path: Path,
    shapes: PyTree,
    model: ConfigDict,
    new_head: bool = False,
    std: Sequence[float] = (),
    shortcut_padding: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> PyTree:
    """Loads the variables of a model from the run or the file at `path`.

    Args:
      path: workdir of a run, whose newest checkpoint is used; a weights file; a file of variables,
        which ends in .msgpack; or a PyTorch state dict.
      shapes: shapes of the variables, 'params' and 'batch_stats', as arrays or shape structs.
      model: config of the model, the field `model` of a run's config.
      new_head: if True, the classification head is left out and may have any shape.
      std: standard deviation by which the images of a PyTorch state dict were divided, one number
        per channel; empty for none, and for other kinds of weights.
      shortcut_padding: padding of a PyTorch model's shortcuts, 'both-sides' or 'end'; None if it
        has no padded shortcuts, and for other kinds of weights.
      image_size: (height, width) of the model's images, in pixels; None for square images.

    Returns:
      float32 arrays in the structure of `shapes`; without the head if `new_head`.

    Raises:
      WeightsError: `path` does not exist, cannot be read, or belongs to another model.
      ConfigError: the options do not fit the model, or it has no known PyTorch counterpart.
      UserError: the run cannot be read.
    """
    source = str(path)
    kind = Kind.RUN if is_directory(path) else source_kind(path)
    if kind is not Kind.STATE_DICT:
        _check_no_state_dict_options(path, std, shortcut_padding)
    if kind is Kind.RUN:
        source = _compare_models(path, _check_run(path).model, model)
        variables = read_run_variables(path)
    elif kind is Kind.WEIGHTS:
        weights = read_weights(path)
        source = _compare_models(path, weights.config.model, model)
        variables = weights.variables
    elif kind is Kind.VARIABLES:
        variables = read_variables(path)
    else:
        torch_state_dict.check_options(model, shortcut_padding)
        state_dict = torch_file.read_state_dict(path)
        options = (new_head, std, shortcut_padding, image_size, str(path))
        variables = torch_state_dict.convert(state_dict, shapes, model, *options)
        _report_assumptions(path, model, std)
    return fit_variables(variables, shapes, model, new_head, source)


def _check_no_state_dict_options(
    path: Path, std: Sequence[float], shortcut_padding: str | None
) -> None:
    """Checks that no option is given that only PyTorch state dicts need.

    Raises:
      WeightsError: such an option is given.
    """
    for field, is_given in (
        ("image_std", bool(std)),
        ("shortcut_padding", shortcut_padding is not None),
    ):
        if is_given:
            raise WeightsError(
                f"transfer.{field} applies only to PyTorch state dicts, got the "
                f"{source_kind(path).value} {path}"
            )


def _report_assumptions(path: Path, model: ConfigDict, std: Sequence[float]) -> None:
    """Prints what a state dict does not show and what it is therefore assumed to be.

    Raises:
      ConfigError: the stride of bottlenecks is not decided.
    """
    if model.block == "bottleneck" and model.name != "densenet":
        if model.stride_on not in STRIDES_ON:
            raise ConfigError(
                f"model.stride_on must be {' or '.join(STRIDES_ON)} to read {path}, got "
                f"{model.stride_on!r}"
            )
        reason = {
            "3x3": "as in torchvision and timm; other models: --config.model.stride_on=1x1",
            "1x1": "unlike torchvision and timm: --config.model.stride_on=3x3",
        }[model.stride_on]
        print_to_stderr(
            f"note: {path} is read with the stride of bottlenecks on the {model.stride_on} "
            f"convolution, {reason}"
        )
    if not std:
        print_to_stderr(
            f"note: {path} is read for images that are not divided by a standard deviation; "
            'torchvision and timm: --config.transfer.image_std="(0.229,0.224,0.225)"'
        )


def _compare_models(path: Path, trained: ConfigDict, model: ConfigDict) -> str:
    """Compares the model that weights were trained with and the model that receives them.

    Prints in which fields they differ if the arrays may still have the same shapes.

    Args:
      path: directory of the run, or the weights file.
      trained: `config.model` of the weights.
      model: `config.model` of the run that receives them.

    Returns:
      The source of the weights for messages: the path, with the model's name if it is another.
    """
    if trained.depth == model.depth and trained.widths == model.widths:
        differences = [
            f"model.{field} {trained[field]!r}, not {model[field]!r}"
            for field in FUNCTION_FIELDS
            if trained[field] != model[field]
        ]
        if differences:
            print_to_stderr(
                f"note: {source_kind(path).value} {path} was trained with {', '.join(differences)}"
            )
    trained_name, name = model_name(trained), model_name(model)
    return str(path) if trained_name == name else f"{path} holds {trained_name}, not {name}: it"


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
    config = _check_run(directory)
    image_shape, num_classes = _input_shape(directory, config)
    return restore_newest(directory, config, image_shape, num_classes, print_to_stderr).variables


def _check_run(directory: Path) -> ConfigDict:
    """Returns the config of a run of a single model that has a checkpoint.

    Raises:
      WeightsError: the directory holds no such run.
      WorkdirError: the config of the run cannot be read.
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
    return config


def _input_shape(directory: Path, config: ConfigDict) -> tuple[tuple[int, int, int], int]:
    """Returns the image shape and the number of classes of a run, if possible without its data.

    Raises:
      WorkdirError: inputs.npz is damaged.
      DatasetError: the run has no inputs.npz, and its data set cannot be read.
    """
    if (directory / INPUT_SPEC_FILE).exists():
        input_spec = read_input_spec(directory, config)
        return input_spec.image_shape, input_spec.num_classes
    try:
        return dataset_shape(config.dataset)
    except DatasetError as error:
        raise DatasetError(
            f"{directory} has no {INPUT_SPEC_FILE}, and its data set cannot be read: {error}"
        ) from error
