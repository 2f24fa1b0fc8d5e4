"""Conversion of PyTorch state dicts with torchvision's or timm's names to a model's variables.

Supported are ResNet and ResNeXt, DenseNet, VGG with batch norm, and the CIFAR models of He15 if
they use the names of torchvision's ResNet.
"""

from __future__ import annotations

import math
import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from jaxtyping import Float32, Shaped
from ml_collections import ConfigDict

from flaxres.config import model_name
from flaxres.errors import ConfigError, WeightsError, first_few
from flaxres.models import vgg
from flaxres.models.layers import HEAD

PyTree = Any
Weights = Mapping[str, Shaped[np.ndarray, " ..."]]

# Kernels of the first convolution. A model has one of them.
FIRST_KERNELS = ("params/conv/kernel", "params/stage1_conv1/kernel")

MAX_NAMES = 3  # names listed in an error message

# Advice if only the classification head does not fit.
NEW_HEAD_HINT = (
    "to train on other classes, initialize a new head with --config.transfer.new_head=True"
)

# PyTorch's names of a module's arrays, by the name of the leaf in flax.
LEAF_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

# PyTorch's names of the modules, by patterns of their names in flaxres. A state dict uses one name
# of each list.
RESNET = {
    r"conv": ["conv1"],
    r"norm": ["bn1"],
    r"dense": ["fc", "linear"],
    r"stage(\d+)_block(\d+)/conv(\d)": ["layer{0}.{1}.conv{2}"],
    r"stage(\d+)_block(\d+)/norm(\d)": ["layer{0}.{1}.bn{2}"],
    r"stage(\d+)_block(\d+)/shortcut/conv": [
        "layer{0}.{1}.downsample.0",
        "layer{0}.{1}.shortcut.0",
    ],
    r"stage(\d+)_block(\d+)/shortcut/norm": [
        "layer{0}.{1}.downsample.1",
        "layer{0}.{1}.shortcut.1",
    ],
}
DENSENET = {
    r"conv": ["features.conv0"],
    r"norm": ["features.norm0"],
    r"last_norm": ["features.norm5"],
    r"dense": ["classifier"],
    r"stage(\d+)_layer(\d+)/conv(\d)": [
        "features.denseblock{0}.denselayer{1}.conv{2}",
        "features.denseblock{0}.denselayer{1}.conv.{2}",  # in files of torchvision
    ],
    r"stage(\d+)_layer(\d+)/norm(\d)": [
        "features.denseblock{0}.denselayer{1}.norm{2}",
        "features.denseblock{0}.denselayer{1}.norm.{2}",
    ],
    r"transition(\d)/(conv|norm)": ["features.transition{0}.{1}"],
}


def read_state_dict(path: Path) -> dict[str, Float32[np.ndarray, " ..."]]:
    """Reads the arrays of a PyTorch file by name. Executes nothing in the file.

    Raises:
      WeightsError: PyTorch is not installed, there is no such file, or it is not a state dict.
    """
    try:
        import torch
    except ImportError:
        raise WeightsError(f"reading {path} needs PyTorch: pip install torch") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns about files before it rejects them
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"there is no file {path}") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path} cannot be read as a PyTorch state dict: it must hold only tensors "
            f"({type(error).__name__})"
        ) from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in ("state_dict", "model") if key in content), content)
    if not isinstance(content, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise WeightsError(f"{path} is not a PyTorch state dict, a dict of tensors by name")
    return {
        name.removeprefix("module."): value.to(torch.float32).numpy()
        for name, value in content.items()
    }


def convert(
    weights: Weights,
    shapes: PyTree,
    model: ConfigDict,
    new_head: bool = False,
    image_std: Sequence[float] = (),
) -> PyTree:
    """Converts the weights of a model in PyTorch to the variables of the same model in flaxres.

    Args:
      weights: arrays by PyTorch's names. Convolutions may have biases before a norm, as in
        torchvision's VGG; they are subtracted from the running means.
      shapes: shapes of the variables, 'params' and 'batch_stats', as arrays or shape structs.
      model: the model, an experiment's `config.model`.
      new_head: if True, the classification head is left out. It may then have any shape.
      image_std: standard deviations by which the images were divided in PyTorch, one for each
        channel; empty for none. The kernel of the first convolution is divided instead, which
        gives the same outputs.

    Returns:
      float32 arrays in the structure of `shapes`; without the head if `new_head`.

    Raises:
      ConfigError: the PyTorch names of the model are unknown, or `image_std` does not have one
        number for each channel.
      WeightsError: an array is missing, unexpected, or has the wrong shape.
    """
    module_names = _make_module_names(model)
    mismatch = f"the state dict does not fit the model {model_name(model)}"
    unused = {name for name in weights if not name.endswith("num_batches_tracked")}
    variables = {}
    for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items():
        _, *modules, leaf_name = path.split("/")
        module = "/".join(modules)
        candidates = [f"{name}.{LEAF_NAMES[leaf_name]}" for name in module_names(module)]
        if new_head and module == HEAD:
            unused -= set(candidates)
            continue
        name = next((candidate for candidate in candidates if candidate in weights), None)
        if name is None:
            raise WeightsError(f"{mismatch}: missing {candidates[0]} (for {module}/{leaf_name})")
        unused.discard(name)
        follows_maps = model.name == "vgg" and module == "hidden1"
        value = _transpose(weights[name], leaf.shape, model.widths[-1] if follows_maps else None)
        if leaf_name == "mean" and model.name != "densenet":
            bias = _find_convolution_bias(module, module_names, weights)
            if bias is not None:
                value = value - weights[bias]
                unused.discard(bias)
        if value.shape != leaf.shape:
            raise WeightsError(
                f"{mismatch}: {name} has shape {weights[name].shape}, which does not fit "
                f"{module}/{leaf_name} {tuple(leaf.shape)}"
                + (f"; {NEW_HEAD_HINT}" if module == HEAD else "")
            )
        variables[path] = np.array(value, np.float32)
    if unused:
        raise WeightsError(f"{mismatch}: unexpected {first_few(sorted(unused), MAX_NAMES)}")
    if image_std:
        kernel = next(path for path in FIRST_KERNELS if path in variables)
        channels = variables[kernel].shape[2]
        if len(image_std) != channels:
            raise ConfigError(
                f"transfer.image_std must be {channels} numbers, got {len(image_std)}"
            )
        variables[kernel] /= np.array(image_std, np.float32)[:, None]
    return traverse_util.unflatten_dict(variables, sep="/")


def _transpose(
    value: Shaped[np.ndarray, " ..."], shape: tuple[int, ...], channels: int | None
) -> Shaped[np.ndarray, " ..."]:
    """Reorders the axes of a weight from PyTorch's layout to flax's.

    Args:
      value: weight of a convolution, (out, in, height, width), or of a dense layer, (out, in);
        other arrays are returned unchanged. A dense layer may be a convolution in PyTorch.
      shape: shape of the leaf in flax.
      channels: number of channels of the square feature maps that a dense layer flattens; None for
        other layers. PyTorch flattens channels first, flax channels last.
    """
    if channels and value.ndim == 2:
        side = math.isqrt(value.shape[1] // channels)
        value = value.reshape(len(value), channels, side, -1)
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
        return value if len(shape) == 4 else value.reshape(-1, value.shape[-1])
    return value.T if value.ndim == 2 else value


def _find_convolution_bias(
    norm: str, module_names: Callable[[str], list[str]], weights: Weights
) -> str | None:
    """Returns PyTorch's name of the bias of the convolution before a norm; None if it has none."""
    try:
        names = module_names(norm.replace("norm", "conv"))
    except KeyError:
        return None
    return next((f"{name}.bias" for name in names if f"{name}.bias" in weights), None)


def _make_module_names(model: ConfigDict) -> Callable[[str], list[str]]:
    """Returns a function from a module's name in flaxres to its possible names in PyTorch."""
    if model.name in ("plain", "resnet", "resnext"):
        return lambda module: _match(RESNET, module)
    if model.name == "densenet":
        return lambda module: _match(DENSENET, module)
    if model.name == "vgg":
        table = _vgg_names(model)
        return lambda module: table[module]
    raise ConfigError(
        f"PyTorch names of {model.name} models are unknown; state dicts are supported for resnet, "
        "resnext, densenet and vgg"
    )


def _match(table: dict[str, list[str]], module: str) -> list[str]:
    for pattern, names in table.items():
        if match := re.fullmatch(pattern, module):
            parts = list(match.groups())
            if "_block" in module:
                parts[1] = str(int(parts[1]) - 1)  # PyTorch counts the blocks of a stage from 0
            return [name.format(*parts) for name in names]
    raise KeyError(module)


def _vgg_names(model: ConfigDict) -> dict[str, list[str]]:
    """Returns the names of VGG's modules.

    Torchvision numbers all layers, including those without parameters: convolution, norm, ReLU and
    max pooling.
    """
    names, position = {}, 0
    for stage, num_convolutions in enumerate(vgg.stages_of_depth(model.depth), start=1):
        for number in range(1, num_convolutions + 1):
            names[f"stage{stage}_conv{number}"] = [f"features.{position}"]
            names[f"stage{stage}_norm{number}"] = [f"features.{position + 1}"]
            position += 3
        position += 1
    for index in range(len(model.hidden)):
        # ReLU and dropout follow each hidden layer.
        names[f"hidden{index + 1}"] = [f"classifier.{3 * index}", f"pre_logits.fc{index + 1}"]
    head = f"classifier.{3 * len(model.hidden)}" if model.hidden else "classifier"
    names[HEAD] = [head, "head.fc"]
    return names
