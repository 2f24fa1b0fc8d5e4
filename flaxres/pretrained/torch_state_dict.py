"""Conversion of PyTorch state dicts with torchvision's or timm's names to a model's variables.

Supported are ResNet and ResNeXt, DenseNet, VGG with batch norm, and the CIFAR models of He15 if
they use the names of torchvision's ResNet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Shaped
from ml_collections import ConfigDict

from flaxres.config import model_name
from flaxres.errors import ConfigError, WeightsError, counted
from flaxres.models import vgg
from flaxres.models.layers import HEAD
from flaxres.models.shortcuts import PADDED_SHORTCUTS
from flaxres.pretrained.channel_order import channel_orders, reorder_channels
from flaxres.pretrained.load import NEW_HEAD_HINT, list_names
from flaxres.pretrained.torch_file import COUNTERS
from flaxres.pretrained.torch_names import LEAF_NAMES, make_module_names

PyTree = Any
Array = Shaped[np.ndarray, " ..."]
Weights = Mapping[str, Array]

# Kernels of the first convolution. A model has one of them.
FIRST_KERNELS = (*("params/conv/kernel", "params/stem_conv1/kernel", "params/stage1_conv1/kernel"),)


def check_options(model: ConfigDict, shortcut_padding: str | None) -> None:
    """Checks that state dicts of a model can be read, and that all they do not show is given.

    Args:
      model: the model, an experiment's `config.model`.
      shortcut_padding: an experiment's `config.transfer.shortcut_padding`.

    Raises:
      ConfigError: the PyTorch names of the model are unknown, or the padding of its shortcuts is
        missing or impossible.
    """
    make_module_names(model)
    if model.shortcut not in PADDED_SHORTCUTS:
        return
    if shortcut_padding is None:
        raise ConfigError(
            "transfer.shortcut_padding must be both-sides (shortcuts without parameters add half "
            "of the channels of zeros before the others and half after, such as F.pad with "
            "planes // 4 on each side) or end (all of them after the others) to read a PyTorch "
            f"state dict of {model_name(model)}, which does not show it; got None"
        )
    if shortcut_padding == "both-sides":
        channel_orders(model)


def convert(
    weights: Weights,
    shapes: PyTree,
    model: ConfigDict,
    new_head: bool = False,
    image_std: Sequence[float] = (),
    shortcut_padding: str | None = None,
    image_size: tuple[int, int] | None = None,
    source: str = "the state dict",
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
      shortcut_padding: where shortcuts without parameters add channels of zeros in PyTorch,
        'both-sides' or 'end'; only for models that have them.
      image_size: (height, width) of the images in pixels, for dense layers that flatten feature
        maps; None if they are square.
      source: origin of the weights; named in messages.

    Returns:
      float32 arrays in the structure of `shapes`; without the head if `new_head`.

    Raises:
      ConfigError: the PyTorch names of the model are unknown, `shortcut_padding` is missing or
        impossible, or `image_std` does not have one number for each channel.
      WeightsError: an array is missing, unexpected, not finite, or has the wrong shape or dtype.
    """
    check_options(model, shortcut_padding)
    module_names = make_module_names(model)
    unused = {name for name in weights if name.rpartition(".")[2] not in COUNTERS}
    variables: dict[str, Any] = {}
    missing, wrong = [], []
    head_fits = backbone_fits = True
    for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items():
        _, *modules, leaf_name = path.split("/")
        module = "/".join(modules)
        candidates = [f"{name}.{LEAF_NAMES[leaf_name]}" for name in module_names(module)]
        if new_head and module == HEAD:
            unused -= set(candidates)
            continue
        name = next((candidate for candidate in candidates if candidate in weights), None)
        if name is None:
            missing.append(f"{candidates[0]} (for {module}/{leaf_name})")
        else:
            unused.discard(name)
            maps = None
            if model.name == "vgg" and module == "hidden1":
                maps = feature_maps(model, leaf.shape, image_size)
            value = _to_flax(weights[name], tuple(leaf.shape), maps)
            if value is None:
                wrong.append(_describe_shape(name, weights[name], f"{module}/{leaf_name}", leaf))
            else:
                variables[path] = _to_float32(f"{name} of {source}", value)
        if path not in variables:
            head_fits &= module != HEAD
            backbone_fits &= module == HEAD
        elif leaf_name == "mean" and model.name != "densenet":
            bias = _find_convolution_bias(module, module_names, weights)
            if bias is not None and weights[bias].shape == tuple(leaf.shape):
                variables[path] -= _to_float32(f"{bias} of {source}", weights[bias])
                unused.discard(bias)
    faults = {"missing": missing, "unexpected": sorted(unused), "wrong shape:": wrong}
    if parts := [f"{fault} {list_names(names)}" for fault, names in faults.items() if names]:
        hint = "" if head_fits or unused or not backbone_fits else f"; {NEW_HEAD_HINT}"
        raise WeightsError(
            f"{source} does not fit the model {model_name(model)}: {'; '.join(parts)}{hint}"
        )
    if image_std:
        kernel = next(path for path in FIRST_KERNELS if path in variables)
        channels = variables[kernel].shape[2]
        if len(image_std) != channels:
            raise ConfigError(
                f"transfer.image_std must be {counted(channels, 'number')}, got {len(image_std)}"
            )
        variables[kernel] /= np.array(image_std, np.float32)[:, None]
    if shortcut_padding == "both-sides":
        variables = reorder_channels(variables, model)
    return traverse_util.unflatten_dict(variables, sep="/")


def feature_maps(
    model: ConfigDict, shape: tuple[int, ...], image_size: tuple[int, int] | None
) -> tuple[int, int, int]:
    """Returns (channels, height, width) of the feature maps that VGG's first dense layer reads."""
    channels = model.widths[-1]
    if image_size is None:
        side = math.isqrt(shape[0] // channels)
        return channels, side, side
    height, width = image_size
    return channels, height // vgg.STRIDE, width // vgg.STRIDE


def _to_flax(value: Array, shape: tuple[int, ...], maps: tuple[int, int, int] | None) -> Any:
    """Reorders the axes of a weight from PyTorch's layout to flax's.

    Args:
      value: weight of a convolution, (out, in, height, width), or of a dense layer, (out, in);
        other arrays are returned unchanged. A dense layer may be a convolution in PyTorch.
      shape: shape of the leaf in flax.
      maps: (channels, height, width) of the feature maps that a dense layer flattens; None for
        other layers. PyTorch flattens channels first, flax channels last.

    Returns:
      An array of the shape `shape`, or None if the weight does not fit.
    """
    if len(shape) == 4:
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    elif len(shape) == 2:
        inputs, outputs = shape
        maps = maps or (inputs, 1, 1)
        if value.shape not in ((outputs, inputs), (outputs, *maps)):
            return None
        value = value.reshape(outputs, *maps).transpose(2, 3, 1, 0).reshape(shape)
    return value if value.shape == shape else None


def _describe_shape(name: str, value: Array, leaf_name: str, leaf: Any) -> str:
    """Returns what an error message says about an array of the wrong shape."""
    text = f"{name} has shape {value.shape}, which does not fit {leaf_name} {tuple(leaf.shape)}"
    if leaf_name != "hidden1/kernel":
        return text
    return (
        f"{text}, because this layer depends on the size of the images (torchvision: "
        "--config.dataset.image_size=224)"
    )


def _to_float32(name: str, value: Array) -> Any:
    """Returns a copy in float32.

    Raises:
      WeightsError: the array does not hold finite floating-point numbers.
    """
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise WeightsError(f"{name} must hold floating-point numbers, got {value.dtype}")
    with np.errstate(over="ignore"):
        array = np.array(value, np.float32)
    if not np.isfinite(array).all():
        raise WeightsError(
            f"{name} holds NaN, infinite or too large numbers; choose an earlier checkpoint"
        )
    return array


def _find_convolution_bias(
    norm: str, module_names: Callable[[str], list[str]], weights: Weights
) -> str | None:
    """Returns PyTorch's name of the bias of the convolution before a norm; None if it has none."""
    try:
        names = module_names(norm.replace("norm", "conv"))
    except KeyError:
        return None
    return next((f"{name}.bias" for name in names if f"{name}.bias" in weights), None)
