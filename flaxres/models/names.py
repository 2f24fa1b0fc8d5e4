"""Model names: the fields of `config.model` that a name such as 'resnet-56-B' stands for.

The same name stands for different models with the CIFAR and the ImageNet stem: 'resnet-50' has
basic blocks on CIFAR and bottlenecks on ImageNet.
"""

from __future__ import annotations

import re
from typing import Any

from ml_collections import ConfigDict

from flaxres.field_checks import shown
from flaxres.models.registry import EXAMPLES, FAMILIES

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
    for family in FAMILIES.values():
        for form in family.name_forms:
            match = re.fullmatch(form.pattern, name, re.ASCII)
            if match and not re.search(MANY_DIGITS, name):
                fields = form.read(match.groupdict(), stem)
                if "stem" in family.fields:
                    fields.setdefault("stem", stem)
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
    if model.name not in FAMILIES:
        return f"{model.name}-{model.depth}"
    return FAMILIES[model.name].model_name(model)
