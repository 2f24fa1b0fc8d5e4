"""Variants of residual models that have a name: squeeze-and-excitation, SkipInit and others."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from flaxres.models.family import require, require_one_of
from flaxres.models.fields import FIELDS
from flaxres.models.imagenet_stem import STEM_POOLS
from flaxres.models.pooling import ANTI_ALIAS

# Fields of `config.model` that tell the variants of a family apart.
VARIANT_FIELDS = (
    *("se_reduction", "deep_stem", "stem_pool", "pool_projections", "anti_alias"),
    *("branch_scale", "branch_scale_init"),
)
# He19 (arXiv 1812.01187), section 4.1: the stride is in the 3x3 convolution from ResNet-B on.
RESNET_D = {"deep_stem": True, "pool_projections": True, "stride_on": "3x3"}
# Variants by the start of their names, with the family and the fields that they change.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    # Hu18 (arXiv 1709.01507), section 6.4: a reduction of 16.
    "seresnet": ("resnet", {"se_reduction": 16}),
    "sepreact": ("preact", {"se_reduction": 16}),
    "seresnext": ("resnext", {"se_reduction": 16}),
    "resnetd": ("resnet", RESNET_D),
    # Bello21 (arXiv 2103.07579), section 5: a squeeze-and-excitation ratio of 0.25.
    "resnetrs": ("resnet", {**RESNET_D, "stem_pool": "conv", "se_reduction": 4}),
    "resnetaa": ("resnet", {"anti_alias": "average", "stride_on": "3x3"}),
    "resnetblur": ("resnet", {"anti_alias": "blur", "stride_on": "3x3"}),
    # De and Smith 2020 (arXiv 2002.10444), section 4; Bachlechner et al. 2021 (arXiv 2003.04887).
    "skipinit": ("preact", {"branch_scale": "scalar", "norm": "none"}),
    "rezero": ("resnet", {"branch_scale": "scalar"}),
}


def variant_start(model: ConfigDict) -> str:
    """Returns the start of the name of a model: that of a variant, or the name of its family."""
    for start, (family, changes) in VARIANTS.items():
        expected = {field: changes.get(field, FIELDS[field]) for field in VARIANT_FIELDS}
        expected["norm"] = changes.get("norm", model.norm)
        if family == model.name and all(model[field] == expected[field] for field in expected):
            return start
    return model.name


def check_variant(model: ConfigDict) -> None:
    """Checks the fields of squeeze-and-excitation, of the stem and of the subsampling.

    Args:
      model: an experiment's `config.model`.

    Raises:
      ConfigError: a field has a value that is not allowed.
    """
    is_reduction = type(model.se_reduction) is int and model.se_reduction >= 0
    require(is_reduction, model, "se_reduction", "a positive quotient of channels, or 0 for none")
    for field in ("deep_stem", "pool_projections"):
        require(type(model[field]) is bool, model, field, "true or false")
    require_one_of(model, "stem_pool", STEM_POOLS)
    require_one_of(model, "anti_alias", ANTI_ALIAS)
    if model.stem == "cifar":
        require(not model.deep_stem, model, "deep_stem", "false without the ImageNet stem")
    if not model.deep_stem:
        rule = "max without model.deep_stem"
        require(model.stem_pool == "max", model, "stem_pool", rule)
    if model.deep_stem:
        rule = "even in the first stage with model.deep_stem"
        require(model.widths[0] % 2 == 0, model, "widths", rule)
    if model.shortcut not in ("B", "C"):
        rule = "false without projections, which shortcuts B and C have"
        require(not model.pool_projections, model, "pool_projections", rule)
    if model.block == "bottleneck" and model.stride_on != "3x3":
        rule = "none unless model.stride_on is 3x3"
        require(model.anti_alias == "none", model, "anti_alias", rule)
