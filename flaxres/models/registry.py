"""Model families: the fields of `config.model` that each family reads, checks and builds from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from ml_collections import ConfigDict

from flaxres.errors import ConfigError
from flaxres.field_checks import FieldChecker
from flaxres.models import densenet, lenet, resnet, stargan, vgg
from flaxres.models.blocks import AUTO_STRIDE, BLOCKS, STRIDES_ON
from flaxres.models.fields import FIELDS
from flaxres.models.layers import BaseModel
from flaxres.models.shortcuts import SHORTCUTS, Shortcut

STEMS = ("cifar", "imagenet")
MAX_DEPTH = 100_000  # layers; a deeper model could not be traced in days
EXAMPLES = (
    "plain-20, resnet-56, resnet-56-B, preact-164, resnext-29-8x64d, densenet-40-12, "
    "densenet-bc-100-12, vgg-13, vgg-13-skip, lenet-5, stargan-6"
)


@dataclasses.dataclass(frozen=True)
class Family:
    """A model family.

    Attributes:
      fields: names in `FIELDS` that the family reads. The other fields must have their defaults.
      check: function that checks the fields of `config.model`. It raises ConfigError or ValueError
        if they describe no model.
      build: function that reads `config.model` and returns a constructor of the model. The
        constructor accepts the attributes of `BaseModel`.
    """

    fields: tuple[str, ...]
    check: Callable[[ConfigDict], None]
    build: Callable[[ConfigDict], Callable[..., BaseModel]]


def _require(condition: bool, model: ConfigDict, field: str, rule: str) -> None:
    FieldChecker({f"model.{field}": model[field]}).require(condition, f"model.{field}", rule)


def _require_one_of(model: ConfigDict, field: str, allowed: Iterable[str]) -> None:
    FieldChecker({f"model.{field}": model[field]}).require_one_of(f"model.{field}", allowed)


def _check_widths(model: ConfigDict, field: str, count: int | None = None) -> None:
    """Checks that a field holds `count` positive integers (None: any number of them)."""
    widths = model[field]
    are_positive = all(type(width) is int and width > 0 for width in widths)
    is_complete = count is None or len(widths) == count
    number = "" if count is None else {2: "two ", 3: "three ", 4: "four ", 5: "five "}[count]
    _require(are_positive and is_complete, model, field, f"{number}positive numbers of filters")


def _check_resnet(model: ConfigDict) -> None:
    _require_one_of(model, "block", BLOCKS)
    _require_one_of(model, "shortcut", SHORTCUTS)
    if model.name == "plain":
        _require(model.shortcut == "none", model, "shortcut", "none for a plain model")
    elif model.name == "resnet":
        options = [option for option in SHORTCUTS if option != "none"]
        rule = f"{', '.join(options[:-1])} or {options[-1]} for a residual model"
        _require(model.shortcut != "none", model, "shortcut", rule)
    else:
        rule = "A, B or C for a pre-activation model or ResNeXt"
        _require(model.shortcut in ("A", "B", "C"), model, "shortcut", rule)
    stages = resnet.stages_of_depth(model.depth, model.block, model.stem)
    _check_widths(model, "widths", len(stages))
    if model.shortcut not in ("B", "C", "none"):
        rule = "non-decreasing, as shortcut option A can only add channels"
        _require(list(model.widths) == sorted(model.widths), model, "widths", rule)
    _require_one_of(model, "stride_on", (*STRIDES_ON, AUTO_STRIDE))
    is_positive = type(model.groups) is int and model.groups >= 1
    _require(is_positive, model, "groups", "a positive number of groups")
    is_width = type(model.group_width) is int and model.group_width >= 0
    _require(is_width, model, "group_width", "a number of channels, or 0 for widths / groups")
    if model.block == "basic":
        _require(model.groups == 1, model, "groups", "1 with basic blocks")
        _require(model.group_width == 0, model, "group_width", "0 with basic blocks")
    if not model.group_width:
        is_divisor = all(width % model.groups == 0 for width in model.widths)
        _require(is_divisor, model, "groups", f"a divisor of all widths {tuple(model.widths)}")
    for field in ("zero_init", "remat", "scan"):
        _require(type(model[field]) is bool, model, field, "true or false")
    if model.shortcut == "dropout":
        for field in ("remat", "scan"):
            _require(not model[field], model, field, "false with shortcut 'dropout'")
    _require(0 <= model.dropout_rate < 1, model, "dropout_rate", "at least 0 and below 1")


def _build_resnet(model: ConfigDict) -> Callable[..., BaseModel]:
    fields = {
        "stages": resnet.stages_of_depth(model.depth, model.block, model.stem),
        "widths": tuple(model.widths),
        "shortcut": Shortcut(
            model.shortcut, model.shortcut_scale, model.gate_bias, model.dropout_rate
        ),
        "pre_activation": model.name == "preact",
        "stride_on": "1x1" if model.stride_on == AUTO_STRIDE else model.stride_on,
    }
    unchanged = (
        "stem",
        "block",
        "groups",
        "group_width",
        "zero_init",
        "remat",
        "scan",
    )
    fields |= {field: model[field] for field in unchanged}
    return lambda **common: resnet.ResNet(**fields, **common)


def _check_densenet(model: ConfigDict) -> None:
    _require_one_of(model, "block", BLOCKS)
    densenet.stages_of_depth(model.depth, model.block, model.stem)
    if model.growth_rate == FIELDS["growth_rate"]:
        raise ValueError("the name has no growth rate; add it, as in densenet-100-12")
    is_positive = type(model.growth_rate) is int and model.growth_rate > 0
    _require(is_positive, model, "growth_rate", "a positive number of channels")
    _require(0 < model.compression <= 1, model, "compression", "above 0 and at most 1")


def _build_densenet(model: ConfigDict) -> Callable[..., BaseModel]:
    stages = densenet.stages_of_depth(model.depth, model.block, model.stem)
    fields = {field: model[field] for field in ("growth_rate", "compression", "block", "stem")}
    return lambda **common: densenet.DenseNet(stages=stages, **fields, **common)


def _check_vgg(model: ConfigDict) -> None:
    vgg.stages_of_depth(model.depth)
    _check_widths(model, "widths", 5)
    _check_widths(model, "hidden")
    _require(type(model.skip) is bool, model, "skip", "true or false")
    _require(0 <= model.dropout_rate < 1, model, "dropout_rate", "at least 0 and below 1")


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
    _require(model.depth == 5, model, "depth", "5")
    _check_widths(model, "widths", 2)
    _check_widths(model, "hidden")
    _require(model.norm == "none", model, "norm", "none for LeNet")


def _build_lenet(model: ConfigDict) -> Callable[..., BaseModel]:
    widths, hidden = tuple(model.widths), tuple(model.hidden)
    return lambda **common: lenet.LeNet(widths=widths, hidden=hidden, **common)


def _check_stargan(model: ConfigDict) -> None:
    is_positive = type(model.depth) is int and model.depth >= 1
    _require(is_positive, model, "depth", "a positive number of residual units")
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
    """Checks the fields of a model, also against each other.

    Args:
      model: an experiment's `config.model`.

    Raises:
      ConfigError: a field has a value that is not allowed.
      ValueError: there is no model of this depth.
    """
    _require_one_of(model, "name", FAMILIES)
    _require_one_of(model, "stem", STEMS)
    family = FAMILIES[model.name]
    for field, default in FIELDS.items():
        if field not in family.fields and model[field] != default:
            raise ConfigError(
                f"model.{field} is not a field of {model.name} models, got {model[field]!r}; "
                f"choose a model by its name after the config file ({EXAMPLES})"
            )
    _require(model.depth <= MAX_DEPTH, model, "depth", f"at most {MAX_DEPTH:,}")
    family.check(model)
