"""Model families by name, and the check of the fields of `config.model`."""

from __future__ import annotations

from ml_collections import ConfigDict

from flaxres.errors import ConfigError
from flaxres.models import (
    convnext,
    densenet,
    dirac,
    fixup,
    lenet,
    plain,
    repvgg,
    resnet_families,
    stargan,
    vgg,
    wide_resnet,
)
from flaxres.models.family import Family, NameForm, require, require_one_of
from flaxres.models.fields import FIELDS

__all__ = [
    "EXAMPLES",
    "FAMILIES",
    "FIELDS",
    "MAX_DEPTH",
    "STEMS",
    "Family",
    "NameForm",
    "check_model_fields",
]

STEMS = ("cifar", "imagenet")
MAX_DEPTH = 100_000  # layers; a deeper model could not be traced in days
# Names in error messages and documentation.
EXAMPLES = (
    "plain-20, resnet-56, resnet-56-B, preact-164, wrn-16-4, resnext-29-8x64d, densenet-40-12, "
    "densenet-bc-100-12, vgg-13, vgg-13-skip, lenet-5, stargan-6, "
    "skipinit-110, rezero-110, fixup-110, convnext-31, dirac-56, repvgg-56"
)
FAMILIES: dict[str, Family] = {
    **resnet_families.FAMILIES,
    "wrn": wide_resnet.FAMILY,
    "plain": plain.FAMILY,
    "dirac": dirac.FAMILY,
    "repvgg": repvgg.FAMILY,
    "densenet": densenet.FAMILY,
    "vgg": vgg.FAMILY,
    "lenet": lenet.FAMILY,
    "stargan": stargan.FAMILY,
    "fixup": fixup.FAMILY,
    "convnext": convnext.FAMILY,
}


def check_model_fields(model: ConfigDict) -> None:
    """Checks the fields of a model, also against each other.

    Args:
      model: an experiment's `config.model`.

    Raises:
      ConfigError: a field has a value that is not allowed.
      ValueError: there is no model of this depth.
    """
    require_one_of(model, "name", FAMILIES)
    require_one_of(model, "stem", STEMS)
    family = FAMILIES[model.name]
    for field, default in FIELDS.items():
        if field not in family.fields and model[field] != default:
            readers = ", ".join(name for name, other in FAMILIES.items() if field in other.fields)
            raise ConfigError(
                f"model.{field} is not a field of {model.name} models, got {model[field]!r}; the "
                f"families that read it are {readers}; choose a model by its name after the config "
                "file"
            )
    require(model.depth <= MAX_DEPTH, model, "depth", f"at most {MAX_DEPTH:,}")
    family.check(model)
