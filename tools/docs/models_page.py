"""Reference page of models: names, parameters and the fields of each family."""

from __future__ import annotations

from flaxres.config import default_config, model_name, set_model
from flaxres.errors import ConfigError
from flaxres.models import create_model
from flaxres.models.layer_counts import summarize
from flaxres.models.registry import FAMILIES, FIELDS, check_model_fields
from tools.docs.text import code, inline, page, table

CIFAR = (
    *("plain-20", "plain-32", "plain-44", "plain-56"),
    *("resnet-20", "resnet-32", "resnet-44", "resnet-56", "resnet-110"),
    *("resnet-56-B", "resnet-56-C"),
    *("preact-110", "preact-164", "resnext-29-8x64d", "densenet-40-12", "densenet-bc-100-12"),
    *("seresnet-20", "seresnet-110"),
    *("vgg-13", "vgg-13-skip", "lenet-5", "stargan-6"),
)
IMAGENET = (
    *("plain-18", "plain-34", "resnet-18", "resnet-34", "resnet-50", "resnet-101", "resnet-152"),
    *("preact-50", "resnext-50-32x4d", "densenet-121", "vgg-13"),
    *("seresnet-50", "seresnext-50-32x4d", "resnetd-50", "resnetrs-50"),
)
INTRODUCTION = """
A model has a name, which a config file takes after a colon (`--config=digits:resnet-56`) and
`flaxres.create_model` as its first argument. [Models](../models.md) describes the families and
their sources. Parameters and MACs (multiply-adds for one image) are computed from the models when
this page is built.
"""


def models_page() -> str:
    """Returns the page: tables of models, and the fields and depths of each family."""
    families = []
    for family, entry in FAMILIES.items():
        listed = ", ".join(f"[`{field}`](fields.md#model.{field})" for field in entry.fields)
        families.append((code(family), listed))
    depths = [(code(model), inline(reason)) for model, reason in _depth_rules().items()]
    return page(
        "Models by name",
        INTRODUCTION.strip(),
        "## Models for small images\n\nWith 10 classes and images of 32x32x3, as CIFAR-10 has.",
        _models(CIFAR, "cifar", (32, 32, 3), 10),
        "## Models for ImageNet\n\nWith 1,000 classes and images of 224x224x3.",
        _models(IMAGENET, "imagenet", (224, 224, 3), 1000),
        "## Depths\n\nA depth that a family does not have is refused with the depths that exist:",
        table(("name", "message"), depths),
        "## Fields of each family\n\nThe fields of `config.model` that a family reads, beside "
        + ", ".join(f"[`{field}`](fields.md#model.{field})" for field in _common_fields())
        + ":",
        table(("family", "fields"), families),
    )


def _models(
    names: tuple[str, ...], stem: str, image_shape: tuple[int, int, int], num_classes: int
) -> str:
    rows = []
    for name in names:
        config = set_model(default_config(), name, stem)
        layers = summarize(create_model(config.model, num_classes), image_shape)
        params = sum(layer.params for layer in layers)
        macs = sum(layer.macs for layer in layers)
        rows.append((code(model_name(config.model)), f"{params:,}", f"{macs / 1e6:,.4g}M"))
    return table(("model", "parameters", "MACs"), rows, numbers=[1, 2])


def _common_fields() -> list[str]:
    return [field for field in default_config().model if field not in FIELDS]


def _depth_rules() -> dict[str, str]:
    """Returns the error message of a depth that does not exist, by model name."""
    messages: dict[str, str] = {}
    for stem, names in (("cifar", CIFAR), ("imagenet", IMAGENET)):
        for name in names:
            config = set_model(default_config(), name, stem).model
            label = name.split("-")[0] + (" (ImageNet)" if stem == "imagenet" else "")
            config.depth = 3
            try:
                check_model_fields(config)
            except (ConfigError, ValueError) as error:
                messages.setdefault(label, str(error))
    return messages
