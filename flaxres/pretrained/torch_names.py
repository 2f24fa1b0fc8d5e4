"""PyTorch's names of the modules of each model family, as torchvision and timm use them."""

from __future__ import annotations

import re
from collections.abc import Callable

from ml_collections import ConfigDict

from flaxres.errors import ConfigError
from flaxres.models import vgg
from flaxres.models.layers import HEAD
from flaxres.models.shortcuts import GATES, LEARNED_SHORTCUTS

# PyTorch's names of a module's arrays, by the name of the leaf in flax.
LEAF_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# Norms whose PyTorch counterpart is known. PyTorch's group norm has groups of other sizes, which a
# state dict does not show.
NORMS = ("batch", "none")

# PyTorch's names of the modules, by patterns of their names in flaxres. A state dict uses one name
# of each list. The first is that of torchvision's modules, which exports use.
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
# timm's names of squeeze-and-excitation, of the deep stem, and of projections after a pooling.
SQUEEZE_EXCITATION = {
    r"stage(\d+)_block(\d+)/se/fc(\d)": ["layer{0}.{1}.se.fc{2}", "layer{0}.{1}.se_module.fc{2}"]
}
DEEP_STEM = {
    r"stem_conv1": ["conv1.0"],
    r"stem_norm1": ["conv1.1"],
    r"stem_conv2": ["conv1.3"],
    r"stem_norm2": ["conv1.4"],
    r"stem_conv3": ["conv1.6"],
    r"stem_norm3": ["bn1"],
    r"stem_pool_conv": ["maxpool.0"],
    r"stem_pool_norm": ["maxpool.1", "maxpool.2"],  # the second one after a blur
}
POOLED_PROJECTION = {
    r"stage(\d+)_block(\d+)/shortcut/conv": ["layer{0}.{1}.downsample.1"],
    r"stage(\d+)_block(\d+)/shortcut/norm": ["layer{0}.{1}.downsample.2"],
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


FAMILIES = ("plain", "resnet", "resnext", "densenet", "vgg")  # with names in PyTorch


def make_module_names(model: ConfigDict) -> Callable[[str], list[str]]:
    """Returns a function from a module's name in flaxres to its possible names in PyTorch.

    Args:
      model: the model, an experiment's `config.model`.

    Raises:
      ConfigError: the names, or the layers behind them, are unknown.
    """
    if model.name not in FAMILIES:
        raise ConfigError(
            f"PyTorch names of {model.name} models are unknown; state dicts are supported for "
            "resnet, resnext, densenet and vgg"
        )
    if model.norm not in NORMS:
        raise ConfigError(
            f"model.norm must be batch or none for a PyTorch state dict, got {model.norm!r}"
        )
    if model.shortcut in (*GATES, *LEARNED_SHORTCUTS):
        raise ConfigError(
            f"PyTorch names of models with model.shortcut={model.shortcut!r} are unknown, so there "
            "are no state dicts of them"
        )
    if model.branch_scale != "none":
        raise ConfigError(
            f"PyTorch names of models with model.branch_scale={model.branch_scale!r} are unknown, "
            "so there are no state dicts of them"
        )
    if model.name in ("plain", "resnet", "resnext"):
        projections = POOLED_PROJECTION if model.pool_projections else {}
        table = {**RESNET, **SQUEEZE_EXCITATION, **DEEP_STEM, **projections}
        return lambda module: _match(table, module)
    if model.name == "densenet":
        return lambda module: _match(DENSENET, module)
    table = _vgg_names(model)
    return lambda module: table[module]


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
            position += 3 if model.norm == "batch" else 2
        position += 1
    for index in range(len(model.hidden)):
        # ReLU and dropout follow each hidden layer.
        names[f"hidden{index + 1}"] = [f"classifier.{3 * index}", f"pre_logits.fc{index + 1}"]
    head = f"classifier.{3 * len(model.hidden)}" if model.hidden else "classifier"
    names[HEAD] = [head, "head.fc"]
    return names
