"""Nets by their fields: what each family reads of `config.model`, and what it allows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from ml_collections import ConfigDict

from flaxres.errors import ConfigError
from flaxres.field_checks import FieldChecker
from flaxres.models import densenet, lenet, resnet, stargan, vgg
from flaxres.models.blocks import BLOCKS, STRIDES_ON
from flaxres.models.layers import BaseModel
from flaxres.models.shortcuts import SHORTCUTS, Shortcut

STEMS = ("cifar", "imagenet")
EXAMPLES = (
    "plain-20, resnet-56, resnet-56-B, preact-164, resnext-29-8x64d, densenet-40-12, "
    "densenet-bc-100-12, vgg-13, vgg-13-skip, lenet-5, stargan-6"
)

# The fields of `config.model` that some nets read and others do not, with the values that they have
# for those; `flaxres.config` has what all nets read.
FIELDS: dict[str, object] = {
    "depth": 20,  # as the papers count it: weighted layers on the longest path
    "widths": (16, 32, 64),  # filters of the stages
    "stem": "cifar",  # what comes before the first stage; see `flaxres.models.layers`
    "block": "basic",  # or bottleneck
    "shortcut": "none",  # see `flaxres.models.shortcuts`
    "shortcut_scale": 0.5,  # of shortcut 'scale'; He16 (arXiv 1603.05027), section 3.1
    "gate_bias": -6.0,  # of the gated shortcuts at the start; the best in He16, table 1
    "dropout_rate": 0.5,  # of shortcut 'dropout' (He16, section 3.1) and of VGG's hidden layers
    "stride_on": "1x1",  # the convolution of a bottleneck with the stride: 1x1 (He15) or 3x3
    "groups": 1,  # of a bottleneck's 3x3 convolution: the cardinality of ResNeXt
    "group_width": 0,  # channels of a group in the first stage; 0: widths / groups
    "zero_init": False,  # blocks begin as their shortcut
    # Keep only the input of each block and compute the rest of it again for its gradient: a third
    # more arithmetic for a third of the memory, or less. Not in the papers.
    "remat": False,
    "scan": False,  # all but the first block of a stage are one loop, which compiles once
    "growth_rate": 0,  # of DenseNet
    "compression": 1.0,  # of DenseNet's transitions
    "hidden": (),  # outputs of the dense layers before the last, in VGG and LeNet
    "skip": False,  # shortcuts around the last two convolutions of VGG
}


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of nets.

    Attributes:
      fields: of FIELDS, those that it reads; the others must be as FIELDS has them.
      check: raises ValueError for values that make no net.
      build: takes the fields, returns a constructor of the net, which takes those of `BaseModel`.
    """

    fields: tuple[str, ...]
    check: Callable[[ConfigDict], None]
    build: Callable[[ConfigDict], Callable[..., BaseModel]]


def need(ok: bool, model: ConfigDict, field: str, rule: str) -> None:
    """Raises ConfigError unless `ok`: what the field must be, and what it is."""
    FieldChecker({f"model.{field}": model[field]}).require(ok, f"model.{field}", rule)


def _one_of(model: ConfigDict, field: str, allowed: Iterable[str]) -> None:
    FieldChecker({f"model.{field}": model[field]}).require_one_of(f"model.{field}", allowed)


def _check_widths(model: ConfigDict, field: str, count: int | None = None) -> None:
    widths = model[field]
    whole = all(type(width) is int and width > 0 for width in widths)
    ok = whole and (count is None or len(widths) == count)
    names = {2: "two ", 3: "three ", 4: "four ", 5: "five "}
    need(ok, model, field, f"{names.get(count, '')}positive numbers of filters")


def _check_resnet(model: ConfigDict) -> None:
    _one_of(model, "block", BLOCKS)
    _one_of(model, "shortcut", SHORTCUTS)
    if model.name == "plain":
        need(model.shortcut == "none", model, "shortcut", "none for a plain net")
    elif model.name == "resnet":
        rule = "A, B or C for a residual net, or one of He16's"
        need(model.shortcut != "none", model, "shortcut", rule)
    else:
        rule = "A, B or C for a pre-activation net or ResNeXt"
        need(model.shortcut in ("A", "B", "C"), model, "shortcut", rule)
    stages = resnet.stages_of_depth(model.depth, model.block, model.stem)
    _check_widths(model, "widths", len(stages))
    if model.shortcut not in ("B", "C", "none"):
        rule = "rising, as option A can only add channels"
        need(list(model.widths) == sorted(model.widths), model, "widths", rule)
    _one_of(model, "stride_on", STRIDES_ON)
    need(type(model.groups) is int and model.groups >= 1, model, "groups", "a number from 1 on")
    whole = type(model.group_width) is int and model.group_width >= 0
    need(whole, model, "group_width", "a number of channels, or 0")
    if model.block == "basic":
        need(model.groups == 1, model, "groups", "1 with basic blocks")
        need(model.group_width == 0, model, "group_width", "0 with basic blocks")
    if not model.group_width:
        fits = all(width % model.groups == 0 for width in model.widths)
        need(fits, model, "groups", f"a divisor of all widths {tuple(model.widths)}")
    for field in ("zero_init", "remat", "scan"):
        need(type(model[field]) is bool, model, field, "true or false")
    if model.shortcut == "dropout":
        for field in ("remat", "scan"):
            need(not model[field], model, field, "false with shortcut 'dropout'")
    need(0 <= model.dropout_rate < 1, model, "dropout_rate", "at least 0 and below 1")


def _build_resnet(model: ConfigDict) -> Callable[..., BaseModel]:
    fields = {
        "stages": resnet.stages_of_depth(model.depth, model.block, model.stem),
        "widths": tuple(model.widths),
        "shortcut": Shortcut(
            model.shortcut, model.shortcut_scale, model.gate_bias, model.dropout_rate
        ),
        "pre_activation": model.name == "preact",
    }
    own = ("stem", "block", "groups", "group_width", "stride_on", "zero_init", "remat", "scan")
    fields |= {field: model[field] for field in own}
    return lambda **common: resnet.ResNet(**fields, **common)


def _check_densenet(model: ConfigDict) -> None:
    _one_of(model, "block", BLOCKS)
    densenet.stages_of_depth(model.depth, model.block, model.stem)
    rate = model.growth_rate
    need(type(rate) is int and rate > 0, model, "growth_rate", "a number of channels from 1 on")
    need(0 < model.compression <= 1, model, "compression", "above 0 and at most 1")


def _build_densenet(model: ConfigDict) -> Callable[..., BaseModel]:
    stages = densenet.stages_of_depth(model.depth, model.block, model.stem)
    fields = {field: model[field] for field in ("growth_rate", "compression", "block", "stem")}
    return lambda **common: densenet.DenseNet(stages=stages, **fields, **common)


def _check_vgg(model: ConfigDict) -> None:
    vgg.stages_of_depth(model.depth)
    _check_widths(model, "widths", 5)
    _check_widths(model, "hidden")
    need(type(model.skip) is bool, model, "skip", "true or false")
    need(0 <= model.dropout_rate < 1, model, "dropout_rate", "at least 0 and below 1")


def _build_vgg(model: ConfigDict) -> Callable[..., BaseModel]:
    fields = {
        "stages": vgg.stages_of_depth(model.depth),
        "widths": tuple(model.widths),
        "hidden": tuple(model.hidden),
        "dropout_rate": model.dropout_rate,
        "skip": model.skip,
    }
    return lambda **common: vgg.Vgg(**fields, **common)


def _check_lenet(model: ConfigDict) -> None:
    need(model.depth == 5, model, "depth", "5")
    _check_widths(model, "widths", 2)
    _check_widths(model, "hidden")
    need(model.norm == "none", model, "norm", "none for LeNet")


def _build_lenet(model: ConfigDict) -> Callable[..., BaseModel]:
    widths = {"widths": tuple(model.widths), "hidden": tuple(model.hidden)}
    return lambda **common: lenet.LeNet(**widths, **common)


def _check_stargan(model: ConfigDict) -> None:
    whole = type(model.depth) is int and model.depth >= 1
    need(whole, model, "depth", "a number of residual units from 1 on")
    _check_widths(model, "widths", 3)


def _build_stargan(model: ConfigDict) -> Callable[..., BaseModel]:
    widths = tuple(model.widths)
    return lambda **common: stargan.StarGan(depth=model.depth, widths=widths, **common)


_RESNET = Family(
    (
        *("depth", "widths", "stem", "block", "shortcut", "shortcut_scale", "gate_bias"),
        *("dropout_rate", "stride_on", "groups", "group_width", "zero_init", "remat", "scan"),
    ),
    _check_resnet,
    _build_resnet,
)
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("plain", "resnet", "preact", "resnext"), _RESNET),
    "densenet": Family(
        ("depth", "stem", "block", "growth_rate", "compression"), _check_densenet, _build_densenet
    ),
    "vgg": Family(
        ("depth", "widths", "stem", "hidden", "dropout_rate", "skip"), _check_vgg, _build_vgg
    ),
    "lenet": Family(("depth", "widths", "hidden"), _check_lenet, _build_lenet),
    "stargan": Family(("depth", "widths"), _check_stargan, _build_stargan),
}


def check_model_fields(model: ConfigDict) -> None:
    """Checks the fields of a net against each other.

    Raises:
      ConfigError: a field has a value that is not allowed.
      ValueError: there is no model of this depth.
    """
    _one_of(model, "name", FAMILIES)
    _one_of(model, "stem", STEMS)
    family = FAMILIES[model.name]
    for field, value in FIELDS.items():
        unread = field not in family.fields
        if unread and model[field] != value:
            raise ConfigError(
                f"model.{field} is not a field of {model.name} nets, got {model[field]!r}; choose "
                f"a net by its name after the config file ({EXAMPLES})"
            )
    family.check(model)
