"""Model names: the fields of `config.model` that a name such as 'resnet-56-B' stands for.

The same name stands for different models with the CIFAR and the ImageNet stem: 'resnet-50' has
basic blocks on CIFAR and bottlenecks on ImageNet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from flaxres.field_checks import shown
from flaxres.models import resnet
from flaxres.models.blocks import AUTO_STRIDE
from flaxres.models.registry import EXAMPLES, FAMILIES
from flaxres.models.shortcuts import SHORTCUTS

MANY_DIGITS = r"\d{10}"  # Python refuses to convert thousands of digits


def model_fields(name: str, stem: str) -> dict[str, Any]:
    """Returns the fields of `config.model` that a model name stands for.

    Args:
      name: such as 'plain-20', 'resnet-56-B' or 'densenet-bc-100-12'.
      stem: 'cifar' or 'imagenet'.

    Returns:
      Values by field, including `name` (the family) and, where it is not the default, `norm`.

    Raises:
      ValueError: `name` is not a model name.
    """
    for pattern, read_fields in _PATTERNS:
        match = re.fullmatch(pattern, name, re.ASCII)
        if match and not re.search(MANY_DIGITS, name):
            fields = read_fields(match.groupdict(), stem)
            if "stem" in FAMILIES[fields["name"]].fields:
                fields["stem"] = stem
            return fields
    raise ValueError(
        f"model name must be FAMILY-DEPTH with the options of the family ({EXAMPLES}), got "
        f"{shown(name)}"
    )


def model_name(model: ConfigDict) -> str:
    """Returns the name of a model, which `model_fields` maps back to its fields.

    Args:
      model: an experiment's `config.model`.
    """
    name = f"{model.name}-{model.depth}"
    if model.name == "resnext":
        name += f"-{model.groups}x{model.group_width}d"
    elif model.name == "densenet":
        if model.stem == "imagenet":
            return name
        bc = "-bc" if model.block == "bottleneck" else ""
        growth_rate = f"-{model.growth_rate}" if model.growth_rate else ""
        return f"densenet{bc}-{model.depth}{growth_rate}"
    elif model.name == "vgg":
        return name + "-skip" * model.skip
    if model.name in ("plain", "resnet", "preact"):
        default = _default_block(model.name, model.depth, model.stem)
        name += f"-{model.block}" if model.block != default else ""
    if model.shortcut != _default_shortcut(model.name, model.block, model.stem):
        name += f"-{model.shortcut}"
    return name


def _default_block(family: str, depth: int, stem: str) -> str:
    """Returns the block that the papers use at this depth: He15, table 1; He16, tables 2 and 4."""
    if stem == "imagenet":
        return "bottleneck" if depth in resnet.IMAGENET_STAGES["bottleneck"] else "basic"
    return "bottleneck" if family == "preact" and depth >= 164 else "basic"


def _default_shortcut(family: str, block: str, stem: str) -> str:
    """Returns the shortcut option that the papers use with this block."""
    if family not in ("resnet", "preact", "resnext"):
        return "none"
    return "A" if block == "basic" and stem == "cifar" else "B"


def _read_resnet(groups: Mapping[str, str | Any], stem: str) -> dict[str, Any]:
    family, depth = groups["name"], int(groups["depth"])
    block = groups["block"] or _default_block(family, depth, stem)
    fields = {
        "name": family,
        "depth": depth,
        "block": block,
        "shortcut": groups["shortcut"] or _default_shortcut(family, block, stem),
        "widths": (16, 32, 64) if stem == "cifar" else (64, 128, 256, 512),
    }
    # Only state dicts of post-activation models can be read.
    depends_on_weights = block == "bottleneck" and family != "preact"
    return fields | ({"stride_on": AUTO_STRIDE} if depends_on_weights else {})


def _read_resnext(groups: Mapping[str, str | Any], stem: str) -> dict[str, Any]:
    return {
        "name": "resnext",
        "depth": int(groups["depth"]),
        "block": "bottleneck",
        "shortcut": groups["shortcut"] or "B",
        "groups": int(groups["groups"]),
        "group_width": int(groups["width"]),
        "stride_on": "3x3",
        # Xie17 (arXiv 1611.05431), tables 1 and 7: 256 channels after the first stage.
        "widths": (64, 128, 256) if stem == "cifar" else (64, 128, 256, 512),
    }


def _read_densenet(groups: Mapping[str, str | Any], stem: str) -> dict[str, Any]:
    is_bc = bool(groups["bc"]) or stem == "imagenet"
    # Huang17 (arXiv 1608.06993), table 1: growth rate 32 on ImageNet.
    growth_rate = int(groups["growth_rate"] or (32 if stem == "imagenet" else 0))
    fields = {"name": "densenet", "depth": int(groups["depth"]), "growth_rate": growth_rate}
    return fields | ({"block": "bottleneck", "compression": 0.5} if is_bc else {})


def _read_vgg(groups: Mapping[str, str | Any], stem: str) -> dict[str, Any]:
    fields = {
        "name": "vgg",
        "depth": int(groups["depth"]),
        "widths": (64, 128, 256, 512, 512),
        "skip": bool(groups["skip"]),
    }
    # On small images the last stage has one or a few pixels, so there are no large dense layers.
    return fields | ({"hidden": (4096, 4096)} if stem == "imagenet" else {"dropout_rate": 0.0})


def _read_lenet(groups: Mapping[str, str | Any], stem: str) -> dict[str, Any]:
    return {"name": "lenet", "depth": 5, "widths": (6, 16), "hidden": (120, 84), "norm": "none"}


def _read_stargan(groups: Mapping[str, str | Any], stem: str) -> dict[str, Any]:
    depth = int(groups["depth"])
    return {"name": "stargan", "depth": depth, "widths": (64, 128, 256), "norm": "instance"}


_SHORTCUT = rf"(?:-(?P<shortcut>{'|'.join(s for s in SHORTCUTS if s != 'none')}))?"
# Patterns of model names, each with the function that reads the fields from the pattern's groups.
_PATTERNS: list[tuple[str, Callable[[dict[str, str | Any], str], dict[str, Any]]]] = [
    (
        r"(?P<name>plain)-(?P<depth>\d+)(?:-(?P<block>basic|bottleneck))?(?P<shortcut>)",
        _read_resnet,
    ),
    (
        rf"(?P<name>resnet|preact)-(?P<depth>\d+)(?:-(?P<block>basic|bottleneck))?{_SHORTCUT}",
        _read_resnet,
    ),
    (
        rf"resnext-(?P<depth>\d+)-(?P<groups>\d+)x(?P<width>\d+)d{_SHORTCUT}",
        _read_resnext,
    ),
    (
        r"densenet(?P<bc>-bc)?-(?P<depth>\d+)(?:-(?P<growth_rate>\d+))?",
        _read_densenet,
    ),
    (r"vgg-(?P<depth>\d+)(?P<skip>-skip)?", _read_vgg),
    (r"lenet-5", _read_lenet),
    (r"stargan-(?P<depth>\d+)", _read_stargan),
]
