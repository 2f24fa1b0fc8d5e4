"""Conversion of a model's variables to PyTorch state dicts with torchvision's names.

`to_state_dict` is the inverse of `flaxres.pretrained.torch_state_dict.convert`. ResNet, ResNeXt,
DenseNet and VGG for ImageNet get the names of torchvision's modules, which load them with
`strict=True`. CIFAR models use the same names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import traverse_util
from jaxtyping import Shaped
from ml_collections import ConfigDict

from flaxres.config import model_name
from flaxres.models.activations import tailored_slope
from flaxres.models.plain import num_activations
from flaxres.models.shortcuts import PADDED_SHORTCUTS
from flaxres.pretrained.torch_names import LEAF_NAMES, make_module_names
from flaxres.pretrained.torch_state_dict import FIRST_KERNELS, feature_maps

TORCH_EPSILON = 1e-5  # default of torch.nn.BatchNorm2d


def to_state_dict(
    variables: dict[str, Any],
    model: ConfigDict,
    step: int = 0,
    image_std: Sequence[float] = (),
    image_size: tuple[int, int] | None = None,
) -> dict[str, Shaped[np.ndarray, " ..."]]:
    """Converts a model's variables to the arrays of the same model in PyTorch.

    Args:
      variables: collections 'params' and 'batch_stats', float32.
      model: the model, an experiment's `config.model`.
      step: number of training steps, for the counters of batch norm, which no output depends on.
      image_std: standard deviations by which the images are divided in PyTorch, one for each
        channel; empty for none. The kernel of the first convolution is multiplied by them.
      image_size: (height, width) of the images in pixels, for dense layers that flatten feature
        maps; None if they are square.

    Returns:
      Arrays by PyTorch's names: float32, and int64 counters.

    Raises:
      ConfigError: the PyTorch names of the model are unknown.
    """
    module_names = make_module_names(model)
    state_dict: dict[str, np.ndarray] = {}
    for path, leaf in traverse_util.flatten_dict(variables, sep="/").items():
        _, *modules, leaf_name = path.split("/")
        module = "/".join(modules)
        array = np.asarray(leaf, np.float32)
        if path in FIRST_KERNELS and image_std:
            array = array * np.array(image_std, np.float32)[:, None]
        maps = None
        if model.name == "vgg" and module == "hidden1" and leaf_name == "kernel":
            maps = feature_maps(model, array.shape, image_size)
        name = module_names(module)[0]
        array = _to_torch(array, maps)
        if "se" in modules and leaf_name == "kernel":
            array = array[:, :, None, None]  # timm's dense layers there are 1x1 convolutions
        state_dict[f"{name}.{LEAF_NAMES[leaf_name]}"] = array
        if leaf_name == "mean":
            state_dict[f"{name}.num_batches_tracked"] = np.array(step, np.int64)
            if model.name == "vgg":  # torchvision's convolutions have biases before the norm
                convolution = module_names(module.replace("norm", "conv"))[0]
                state_dict[f"{convolution}.bias"] = np.zeros_like(array)
    return state_dict


def _to_torch(array: np.ndarray, maps: tuple[int, int, int] | None) -> Shaped[np.ndarray, " ..."]:
    """Reorders the axes of a parameter from flax's layout to PyTorch's, in contiguous memory.

    Args:
      array: kernel of a convolution, (height, width, in, out), or of a dense layer, (in, out);
        other arrays are returned unchanged.
      maps: (channels, height, width) of the feature maps that a dense layer flattens; None for
        other layers. PyTorch flattens channels first, flax channels last.
    """
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif maps is not None:
        channels, height, width = maps
        array = array.reshape(height, width, channels, -1).transpose(3, 2, 0, 1)
        array = array.reshape(len(array), math.prod(maps))
    elif array.ndim == 2:
        array = array.T
    return np.ascontiguousarray(array)


def describe_differences(model: ConfigDict) -> list[str]:
    """Returns what the PyTorch module must do that a state dict does not show, one line each.

    Args:
      model: the model, an experiment's `config.model`; its `stride_on` is not 'auto'.
    """
    notes = []
    name = model_name(model)
    if model.shortcut in PADDED_SHORTCUTS:
        notes.append(
            f"shortcuts of {name} have no parameters; where the channels grow, they keep every "
            "second pixel and append channels of zeros: "
            "F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, planes - in_planes))"
        )
    if model.shortcut == "scale":
        notes.append(f"shortcuts of {name} are multiplied by {model.shortcut_scale}")
    if model.anti_alias != "none":
        timm_name = {"average": "resnetaa", "blur": "resnetblur"}[model.anti_alias]
        notes.append(f"{name} subsamples like timm's {timm_name} models, not by strides")
    if model.drop_path and model.drop_path_scope == "batch":
        notes.append(
            f"the residual branch of block l of L in {name} is multiplied by "
            f"1 - {model.drop_path} * l / L, the survival rate of stochastic depth"
        )
    if model.name == "plain":
        notes.append(f"{name} has no shortcuts")
    if model.activation == "tanh":
        notes.append(f"activations of {name} are tanh, not ReLU")
    if model.activation == "tailored-relu":
        slope = tailored_slope(num_activations(model), model.tailored_eta)
        notes.append(
            f"activations of {name} are sqrt(2 / (1 + s**2)) * F.leaky_relu(x, s) with "
            f"s = {slope}, not ReLU"
        )
    is_bottleneck = model.block == "bottleneck" and model.name != "densenet"
    if is_bottleneck and model.stride_on == "1x1":
        notes.append(
            f"the stride of the bottlenecks of {name} is in conv1; torchvision has it in conv2, "
            "which gives other outputs"
        )
    if model.skip:
        notes.append(f"{name} has shortcuts around the last two convolutions, unlike torchvision")
    if model.norm == "batch" and model.norm_epsilon != TORCH_EPSILON:
        notes.append(f"eps of all norms is {model.norm_epsilon}, not {TORCH_EPSILON}")
    return notes
