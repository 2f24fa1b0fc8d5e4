"""Variables of a net from a PyTorch state dict with torchvision's or timm's names.

Covered are ResNet and ResNeXt, DenseNet, and VGG with batch norm; the nets of He15 for CIFAR too,
where they have the names of torchvision's ResNet.
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
from ml_collections import ConfigDict

from flaxres.config import model_name
from flaxres.errors import ConfigError, WeightsError
from flaxres.models import vgg
from flaxres.models.layers import HEAD

PyTree = Any
Weights = Mapping[str, np.ndarray]

# Kernels of the first convolution, of which a net has one.
FIRST = ("params/conv/kernel", "params/stage1_conv1/kernel")

# What to do where only the last dense layer does not fit.
NEW_HEAD = "for other classes begin that layer anew, with --config.transfer.new_head=True"

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# flaxres's modules, and PyTorch's names for them, of which a state dict has one.
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
        "features.denseblock{0}.denselayer{1}.conv.{2}",  # in torchvision's files
    ],
    r"stage(\d+)_layer(\d+)/norm(\d)": [
        "features.denseblock{0}.denselayer{1}.norm{2}",
        "features.denseblock{0}.denselayer{1}.norm.{2}",
    ],
    r"transition(\d)/(conv|norm)": ["features.transition{0}.{1}"],
}


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a PyTorch file, by name. Nothing in the file is executed.

    Raises:
      WeightsError: no PyTorch to read it with, no such file, or not a state dict.
    """
    try:
        import torch
    except ImportError:
        raise WeightsError(f"reading {path} needs PyTorch: pip install torch") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that it then refuses
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"there is no file {path}") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path} cannot be read as a PyTorch state dict: it must hold tensors alone "
            f"({type(error).__name__})"
        ) from error
    if isinstance(loaded, Mapping):
        loaded = next((loaded[key] for key in ("state_dict", "model") if key in loaded), loaded)
    if not isinstance(loaded, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in loaded.values()
    ):
        raise WeightsError(f"{path} is not a PyTorch state dict, which has tensors by name")
    return {
        name.removeprefix("module."): value.to(torch.float32).numpy()
        for name, value in loaded.items()
    }


def convert(
    weights: Weights,
    shapes: PyTree,
    model: ConfigDict,
    new_head: bool = False,
    std: Sequence[float] = (),
) -> PyTree:
    """A net's variables from those of the same net in PyTorch.

    Args:
      weights: by PyTorch's names. Convolutions may have biases before a norm, as torchvision's VGG
        nets have; running means take them in.
      shapes: of the variables, 'params' and 'batch_stats', as arrays or their shapes.
      model: the net, an experiment's `config.model`.
      new_head: leave out the last dense layer, whatever it is like there.
      std: what the channels of the images were divided by; the first convolution is instead, which
        gives the same. Empty for nothing.

    Returns:
      float32 arrays in the places of `shapes`; with `new_head` without the last dense layer.

    Raises:
      ConfigError: a family of nets whose names in PyTorch are not known, or another number of
        channels than `std` has.
      WeightsError: a variable is missing or of another shape, or there is one too many.
    """
    names = _names_of(model)
    left = {name for name in weights if not name.endswith("num_batches_tracked")}
    flat = {}
    for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items():
        _, module, kind = re.fullmatch(r"(\w+)/(.+)/(\w+)", path).groups()
        candidates = [f"{name}.{LEAVES[kind]}" for name in names(module)]
        if new_head and module == HEAD:
            left -= set(candidates)
            continue
        name = next((candidate for candidate in candidates if candidate in weights), None)
        if name is None:
            raise WeightsError(
                f"the state dict is not of {model_name(model)}: it has no {candidates[0]} "
                f"for {module}/{kind}"
            )
        left.discard(name)
        flattened = model.name == "vgg" and module == "hidden1"
        value = _transpose(weights[name], leaf.shape, model.widths[-1] if flattened else None)
        if kind == "mean" and model.name != "densenet":
            value, bias = _with_bias_of_convolution(value, module, names, weights)
            left.discard(bias)
        if value.shape != leaf.shape:
            raise WeightsError(
                f"the state dict is not of {model_name(model)}: {name} has shape "
                f"{weights[name].shape}, which does not fit {module}/{kind} {tuple(leaf.shape)}"
                + (f"; {NEW_HEAD}" if module == HEAD else "")
            )
        flat[path] = np.array(value, np.float32)
    if left:
        raise WeightsError(
            f"the state dict is not of {model_name(model)}: the net has no place for "
            f"{len(left)} of its arrays, {min(left)} among them"
        )
    if std:
        first = next(path for path in FIRST if path in flat)
        channels = flat[first].shape[2]
        if len(std) != channels:
            raise ConfigError(f"transfer.image_std must be {channels} numbers, got {len(std)}")
        flat[first] /= np.array(std, np.float32)[:, None]
    return traverse_util.unflatten_dict(flat, sep="/")


def _transpose(value: np.ndarray, shape: tuple[int, ...], channels: int | None) -> np.ndarray:
    """From (out, in, height, width) or (out, in) to flax's order, for a leaf of that shape.

    A dense layer may be a convolution in PyTorch. `channels` are those of the square maps whose
    pixels it takes, if it does: PyTorch flattens them with the channels first, flax with them last.
    """
    if channels and value.ndim == 2:
        side = math.isqrt(value.shape[1] // channels)
        value = value.reshape(len(value), channels, side, -1)
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
        return value if len(shape) == 4 else value.reshape(-1, value.shape[-1])
    return value.T if value.ndim == 2 else value


def _with_bias_of_convolution(
    mean: np.ndarray, module: str, names: Callable[[str], list[str]], weights: Weights
) -> tuple[np.ndarray, str | None]:
    """A running mean less the bias of the convolution before that norm, and the bias's name."""
    try:
        biases = [f"{name}.bias" for name in names(module.replace("norm", "conv"))]
    except KeyError:
        return mean, None
    name = next((name for name in biases if name in weights), None)
    return (mean - weights[name], name) if name else (mean, None)


def _names_of(model: ConfigDict) -> Callable[[str], list[str]]:
    """A function from a module of flaxres to its names in PyTorch."""
    if model.name in ("plain", "resnet", "resnext"):
        return lambda module: _matching(RESNET, module)
    if model.name == "densenet":
        return lambda module: _matching(DENSENET, module)
    if model.name == "vgg":
        table = _vgg_names(model)
        return lambda module: table[module]
    raise ConfigError(
        f"PyTorch's names of {model.name} nets are not known; those of resnet, resnext, densenet "
        "and vgg are"
    )


def _matching(table: dict[str, list[str]], module: str) -> list[str]:
    for pattern, names in table.items():
        if match := re.fullmatch(pattern, module):
            parts = list(match.groups())
            if "_block" in module:
                parts[1] = str(int(parts[1]) - 1)  # PyTorch counts the blocks of a stage from 0
            return [name.format(*parts) for name in names]
    raise KeyError(module)


def _vgg_names(model: ConfigDict) -> dict[str, list[str]]:
    """Torchvision numbers all layers, those without parameters too: conv, norm, ReLU, maximum."""
    names, position = {}, 0
    for stage, count in enumerate(vgg.stages_of_depth(model.depth), start=1):
        for number in range(1, count + 1):
            names[f"stage{stage}_conv{number}"] = [f"features.{position}"]
            names[f"stage{stage}_norm{number}"] = [f"features.{position + 1}"]
            position += 3
        position += 1
    for number in range(len(model.hidden)):
        own = f"classifier.{3 * number}"  # each is followed by ReLU and dropout
        names[f"hidden{number + 1}"] = [own, f"pre_logits.fc{number + 1}"]
    last = f"classifier.{3 * len(model.hidden)}" if model.hidden else "classifier"
    names["dense"] = [last, "head.fc"]
    return names
