"""Nets by name: the fields of `config.model` that a name such as resnet-56-B stands for, and back.

Which net a depth means depends on the stem: resnet-50 has basic blocks on CIFAR and bottlenecks on
ImageNet.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ml_collections import ConfigDict

from flaxres.models import resnet
from flaxres.models.registry import EXAMPLES, FAMILIES
from flaxres.models.shortcuts import SHORTCUTS


def model_fields(net: str, stem: str) -> dict[str, object]:
    """The fields that a name stands for, `name` and, where it differs, `norm` among them.

    Raises:
      ValueError: no net has this name.
    """
    for pattern, read in _NAMES:
        if match := re.fullmatch(pattern, net):
            fields = read(match.groupdict(), stem)
            if "stem" in FAMILIES[fields["name"]].fields:
                fields["stem"] = stem
            return fields
    raise ValueError(
        f"net must be FAMILY-DEPTH, with what else the family has ({EXAMPLES}), got {net!r}"
    )


def model_name(model: ConfigDict) -> str:
    """The name that `model_fields` reads."""
    name = f"{model.name}-{model.depth}"
    if model.name == "resnext":
        name += f"-{model.groups}x{model.group_width}d"
    elif model.name == "densenet":
        if model.stem == "imagenet":
            return name
        bc = "-bc" if model.block == "bottleneck" else ""
        return f"densenet{bc}-{model.depth}-{model.growth_rate}"
    elif model.name == "vgg":
        return name + "-skip" * model.skip
    if model.name in ("plain", "resnet", "preact"):
        default = _block_of_depth(model.name, model.depth, model.stem)
        name += f"-{model.block}" if model.block != default else ""
    if model.shortcut != _shortcut_of(model.name, model.block, model.stem):
        name += f"-{model.shortcut}"
    return name


def _block_of_depth(name: str, depth: int, stem: str) -> str:
    """That of the paper's net: He15, table 1; He16, tables 2 and 4."""
    if stem == "imagenet":
        return "bottleneck" if depth in resnet.IMAGENET_STAGES["bottleneck"] else "basic"
    return "bottleneck" if name == "preact" and depth >= 164 else "basic"


def _shortcut_of(name: str, block: str, stem: str) -> str:
    """That of the paper's net."""
    if name not in ("resnet", "preact", "resnext"):
        return "none"
    return "A" if block == "basic" and stem == "cifar" else "B"


def _read_resnet(found: dict[str, str], stem: str) -> dict[str, object]:
    name, depth = found["name"], int(found["depth"])
    block = found["block"] or _block_of_depth(name, depth, stem)
    return {
        "name": name,
        "depth": depth,
        "block": block,
        "shortcut": found["shortcut"] or _shortcut_of(name, block, stem),
        "widths": (16, 32, 64) if stem == "cifar" else (64, 128, 256, 512),
    }


def _read_resnext(found: dict[str, str], stem: str) -> dict[str, object]:
    return {
        "name": "resnext",
        "depth": int(found["depth"]),
        "block": "bottleneck",
        "shortcut": found["shortcut"] or "B",
        "groups": int(found["groups"]),
        "group_width": int(found["width"]),
        "stride_on": "3x3",
        # Xie17 (arXiv 1611.05431), tables 1 and 7: 256 channels after the first stage.
        "widths": (64, 128, 256) if stem == "cifar" else (64, 128, 256, 512),
    }


def _read_densenet(found: dict[str, str], stem: str) -> dict[str, object]:
    bc = bool(found["bc"]) or stem == "imagenet"
    # Huang17 (arXiv 1608.06993), table 1: growth rate 32 on ImageNet.
    rate = int(found["rate"] or (32 if stem == "imagenet" else 0))
    fields = {"name": "densenet", "depth": int(found["depth"]), "growth_rate": rate}
    return fields | ({"block": "bottleneck", "compression": 0.5} if bc else {})


def _read_vgg(found: dict[str, str], stem: str) -> dict[str, object]:
    fields = {
        "name": "vgg",
        "depth": int(found["depth"]),
        "widths": (64, 128, 256, 512, 512),
        "skip": bool(found["skip"]),
    }
    # Small images leave a pixel or two to the last stage, so the large dense layers are left out.
    return fields | ({"hidden": (4096, 4096)} if stem == "imagenet" else {"dropout_rate": 0.0})


def _read_lenet(found: dict[str, str], stem: str) -> dict[str, object]:
    return {"name": "lenet", "depth": 5, "widths": (6, 16), "hidden": (120, 84), "norm": "none"}


def _read_stargan(found: dict[str, str], stem: str) -> dict[str, object]:
    depth = int(found["depth"])
    return {"name": "stargan", "depth": depth, "widths": (64, 128, 256), "norm": "instance"}


_SHORTCUT = rf"(?:-(?P<shortcut>{'|'.join(s for s in SHORTCUTS if s != 'none')}))?"
_NAMES: list[tuple[str, Callable[[dict[str, str], str], dict[str, object]]]] = [
    (
        r"(?P<name>plain)-(?P<depth>\d+)(?:-(?P<block>basic|bottleneck))?(?P<shortcut>)",
        _read_resnet,
    ),
    (
        rf"(?P<name>resnet|preact)-(?P<depth>\d+)(?:-(?P<block>basic|bottleneck))?{_SHORTCUT}",
        _read_resnet,
    ),
    (rf"resnext-(?P<depth>\d+)-(?P<groups>\d+)x(?P<width>\d+)d{_SHORTCUT}", _read_resnext),
    (r"densenet(?P<bc>-bc)?-(?P<depth>\d+)(?:-(?P<rate>\d+))?", _read_densenet),
    (r"vgg-(?P<depth>\d+)(?P<skip>-skip)?", _read_vgg),
    (r"lenet-5", _read_lenet),
    (r"stargan-(?P<depth>\d+)", _read_stargan),
]
