"""Families of `flaxres.models.resnet`: plain, residual, pre-activation and ResNeXt models."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from flaxres.models import resnet
from flaxres.models.blocks import AUTO_STRIDE, BLOCKS, STRIDES_ON
from flaxres.models.family import (
    Family,
    NameForm,
    conv3x3_params,
    first_activations,
    require,
    require_one_of,
    require_widths,
)
from flaxres.models.imagenet_stem import ImageNetStem
from flaxres.models.layers import BaseModel
from flaxres.models.residual_branch import BranchOptions, check_branch_scale
from flaxres.models.resnet_variants import (
    VARIANT_FIELDS,
    VARIANTS,
    check_variant,
    variant_start,
)
from flaxres.models.shortcuts import SHORTCUTS, Shortcut
from flaxres.models.stochastic_depth import StochasticDepth, check_drop_path
from flaxres.suggestions import nearest_names

NAMED_SHORTCUTS = tuple(option for option in SHORTCUTS if option != "none")
FIELDS_READ = (
    *("depth", "widths", "stem", "block", "shortcut", "shortcut_scale", "gate_bias"),
    *("drop_path", "drop_path_scope", *VARIANT_FIELDS),
    *("dropout_rate", "stride_on", "groups", "group_width", "zero_init", "remat", "scan"),
)
_BLOCK = r"(?:-(?P<block>basic|bottleneck))?"
_RESNEXT = r"-(?P<depth>\d+)-(?P<groups>\d+)x(?P<width>\d+)d"
_SHORTCUT = rf"(?:-(?P<shortcut>{'|'.join(NAMED_SHORTCUTS)}))?"


def _check(model: ConfigDict) -> None:
    require_one_of(model, "block", BLOCKS)
    require_one_of(model, "shortcut", SHORTCUTS)
    if model.name == "plain":
        require(model.shortcut == "none", model, "shortcut", "none for a plain model")
        rule = "false for a plain model, whose feature maps would be zero and stay so"
        require(not model.zero_init, model, "zero_init", rule)
    elif model.name == "resnet":
        rule = f"{', '.join(NAMED_SHORTCUTS[:-1])} or {NAMED_SHORTCUTS[-1]} for a residual model"
        require(model.shortcut != "none", model, "shortcut", rule)
    else:
        rule = "A, B or C for a pre-activation model or ResNeXt"
        require(model.shortcut in ("A", "B", "C"), model, "shortcut", rule)
    stages = resnet.stages_of_depth(model.depth, model.block, model.stem)
    require_widths(model, "widths", len(stages))
    if model.shortcut not in ("B", "C", "none", "concat"):
        rule = "non-decreasing, as shortcut option A can only add channels"
        require(list(model.widths) == sorted(model.widths), model, "widths", rule)
    require_one_of(model, "stride_on", (*STRIDES_ON, AUTO_STRIDE))
    is_positive = type(model.groups) is int and model.groups >= 1
    require(is_positive, model, "groups", "a positive number of groups")
    is_width = type(model.group_width) is int and model.group_width >= 0
    require(is_width, model, "group_width", "a number of channels, or 0 for widths / groups")
    if model.block == "basic":
        require(model.groups == 1, model, "groups", "1 with basic blocks")
        require(model.group_width == 0, model, "group_width", "0 with basic blocks")
    if not model.group_width:
        is_divisor = all(width % model.groups == 0 for width in model.widths)
        require(is_divisor, model, "groups", f"a divisor of all widths {tuple(model.widths)}")
    for field in ("zero_init", "remat", "scan"):
        require(type(model[field]) is bool, model, field, "true or false")
    check_drop_path(model)
    check_variant(model)
    if model.shortcut == "dropout":
        for field in ("remat", "scan"):
            require(not model[field], model, field, "false with shortcut 'dropout'")
    require(0 <= model.dropout_rate < 1, model, "dropout_rate", "at least 0 and below 1")
    if model.name == "plain":
        rule = "none for a plain model, which has no residual branches"
        require(model.branch_scale == "none", model, "branch_scale", rule)
    check_branch_scale(model)


def resnet_attributes(model: ConfigDict) -> dict[str, Any]:
    """Returns the attributes of `resnet.ResNet` that `config.model` describes.

    Families whose modules are subclasses of it add their own attributes.
    """
    attributes = {
        "stages": resnet.stages_of_depth(model.depth, model.block, model.stem),
        "widths": tuple(model.widths),
        "shortcut": Shortcut(
            model.shortcut,
            model.shortcut_scale,
            model.gate_bias,
            model.dropout_rate,
            pool_projections=model.pool_projections,
        ),
        "imagenet_stem": ImageNetStem(model.deep_stem, model.stem_pool, model.anti_alias),
        "stochastic_depth": StochasticDepth(model.drop_path, model.drop_path_scope),
        "pre_activation": model.name == "preact",
        "branch": BranchOptions(model.se_reduction, model.branch_scale, model.branch_scale_init),
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
        "anti_alias",
    )
    return attributes | {field: model[field] for field in unchanged}


def _build(model: ConfigDict) -> Callable[..., BaseModel]:
    return functools.partial(resnet.ResNet, **resnet_attributes(model))


def _min_params(model: ConfigDict, image_size: int) -> int:
    """Counts the weights of the convolutions in the blocks, without projections."""
    stages = resnet.stages_of_depth(model.depth, model.block, model.stem)
    params, inputs = 0, model.widths[0]
    if model.block == "basic":
        return conv3x3_params((2 * count for count in stages), model.widths, inputs)
    for stage, (count, width) in enumerate(zip(stages, model.widths, strict=True)):
        inner = model.groups * model.group_width * 2**stage or width
        outputs = resnet.EXPANSION * width
        others = 9 * inner**2 // model.groups + inner * outputs
        params += inputs * inner + (count - 1) * outputs * inner + count * others
        inputs = outputs
    return params


def default_block(family: str, depth: int, stem: str) -> str:
    """Returns the block that the papers use at this depth: He15, table 1; He16, tables 2 and 4."""
    if stem == "imagenet":
        return "bottleneck" if depth in resnet.IMAGENET_STAGES["bottleneck"] else "basic"
    return "bottleneck" if family == "preact" and depth >= 164 else "basic"


def _default_shortcut(family: str, depth: int, block: str, stem: str) -> str:
    """Returns the shortcut option that the papers use with this block."""
    if family == "plain":
        return "none"
    is_small = block == "basic" and not resnet.has_four_stages(depth, block, stem)
    return "A" if is_small else "B"


def _model_name(model: ConfigDict) -> str:
    name = f"{variant_start(model)}-{model.depth}"
    if model.name == "resnext":
        name += f"-{model.groups}x{model.group_width}d"
    elif model.block != default_block(model.name, model.depth, model.stem):
        name += f"-{model.block}"
    if model.shortcut != _default_shortcut(model.name, model.depth, model.block, model.stem):
        name += f"-{model.shortcut}"
    return name


def _read(groups: Mapping[str, str | Any], stem: str) -> dict[str, Any]:
    family, depth = groups["name"], int(groups["depth"])
    block = groups["block"] or default_block(family, depth, stem)
    fields = {
        "name": family,
        "depth": depth,
        "block": block,
        "shortcut": groups.get("shortcut") or _default_shortcut(family, depth, block, stem),
        "widths": resnet.default_widths(depth, block, stem),
    }
    # Only state dicts of post-activation models can be read.
    depends_on_weights = block == "bottleneck" and family != "preact"
    return fields | ({"stride_on": AUTO_STRIDE} if depends_on_weights else {})


def _read_variant(groups: Mapping[str, str | Any], stem: str) -> dict[str, Any]:
    family, changes = VARIANTS[groups["name"]]
    read = _read_resnext if family == "resnext" else _read
    return read({**groups, "name": family}, stem) | changes


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


def _suggest_options(family: str) -> Callable[[str, str], Iterator[str]]:
    """Returns a function that suggests names, those with the nearest options first."""
    shortcuts = ("",) if family == "plain" else ("", *NAMED_SHORTCUTS)
    pairs = itertools.product(("", "basic", "bottleneck"), shortcuts)
    options = [option for option in ("-".join(filter(None, pair)) for pair in pairs) if option]
    name = f"{family}-{{depth}}"

    def suggest(rest: str, stem: str) -> Iterator[str]:
        if rest and f"{family}{rest}" in VARIANTS:  # timm's resnet50d
            yield f"{family}{rest}-{{depth}}"
        if rest:
            yield from (f"{name}-{option}" for option in nearest_names(rest, options))
            yield from (f"{name}-{option}" for option in options if option == rest)
        yield name

    return suggest


def _suggest_resnext(rest: str, stem: str, start: str = "resnext") -> Iterator[str]:
    numbers = re.findall(r"\d{1,5}", rest)
    groups, width = numbers[:2] if len(numbers) > 1 else ("8", "64")
    yield f"{start}-{{depth}}-{groups}x{width}d"
    if stem == "imagenet":
        yield f"{start}-{{depth}}-32x4d"


def _family(*forms: NameForm) -> Family:
    return Family(FIELDS_READ, _check, _build, forms, _model_name, _min_params, first_activations)


def _variant_forms(family: str) -> Iterator[NameForm]:
    """Yields the forms of names of a family's variants."""
    for start, (other, changes) in VARIANTS.items():
        if other != family:
            continue
        suggest: Callable[[str, str], Iterator[str]] = _suggest_options(start)
        examples: tuple[str, ...] = (f"{start}-50",)
        if family == "resnext":
            pattern = f"(?P<name>{start}){_RESNEXT}{_SHORTCUT}"
            suggest = functools.partial(_suggest_resnext, start=start)
            examples = (f"{start}-29-8x64d", f"{start}-50-32x4d")
        else:
            pattern = rf"(?P<name>{start})-(?P<depth>\d+){_BLOCK}{_SHORTCUT}"
            if "deep_stem" not in changes:
                examples = (f"{start}-56", *examples)
        other_starts = ("-".join(filter(None, start.partition(family))),)
        yield NameForm(start, pattern, _read_variant, examples, suggest, other_starts)


def _family_with_options(
    family: str, shortcut: str, examples: tuple[str, ...], other_starts: tuple[str, ...] = ()
) -> Family:
    pattern = rf"(?P<name>{family})-(?P<depth>\d+){_BLOCK}{shortcut}"
    suggest = _suggest_options(family)
    form = NameForm(family, pattern, _read, examples, suggest, other_starts)
    return _family(form, *_variant_forms(family))


FAMILIES: dict[str, Family] = {
    "plain": _family_with_options("plain", "", ("plain-20", "plain-34")),
    "resnet": _family_with_options("resnet", _SHORTCUT, ("resnet-56", "resnet-50")),
    "preact": _family_with_options(
        "preact",
        _SHORTCUT,
        ("preact-110", "preact-50"),
        ("preactresnet", "preact-resnet", "preresnet", "resnetv2", "resnet-v2"),
    ),
    "resnext": _family(
        NameForm(
            "resnext",
            f"resnext{_RESNEXT}{_SHORTCUT}",
            _read_resnext,
            ("resnext-29-8x64d", "resnext-50-32x4d"),
            _suggest_resnext,
        ),
        *_variant_forms("resnext"),
    ),
}
