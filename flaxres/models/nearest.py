"""Nearest models: suggestions for a model name or a depth that does not exist.

Every suggested name is checked, so it stands for a model that can be built.
"""

from __future__ import annotations

import itertools
import re

from ml_collections import ConfigDict

from flaxres.errors import ConfigError
from flaxres.models.names import model_fields, model_name
from flaxres.models.registry import FAMILIES, FIELDS, STEMS, NameForm, check_model_fields
from flaxres.suggestions import nearest_names, suggestion

MAX_GAP = 1_000  # layers between a depth and the nearest one that exists
CONFIGS = {
    "cifar": "a config for small images, such as configs/cifar10.py",
    "imagenet": "an ImageNet config, such as configs/imagenet.py",
}


def check_model(model: ConfigDict) -> None:
    """Checks the fields of a model; an error suggests the nearest models that exist.

    Args:
      model: an experiment's `config.model`.

    Raises:
      ConfigError: a field has a value that is not allowed, or there is no model of this depth.
    """
    try:
        check_model_fields(model)
    except ValueError as error:
        name = model_name(model)
        raise ConfigError(f"model {name}: {error}{model_hint(name, model.stem)}") from None
    except ConfigError as error:
        name = model_name(model)
        raise ConfigError(f"{error}{_needed_config(name, model.stem)}") from None


def model_hint(name: str, stem: str) -> str:
    """Returns the end of an error message about a model that does not exist.

    Args:
      name: the name of the model.
      stem: 'cifar' or 'imagenet'.

    Returns:
      '; NAME needs CONFIG', if another config has a model of that name, and '; did you mean NAME?'.
      Empty if no model is near.
    """
    return _needed_config(name, stem) + suggestion(nearest_models(name, stem))


def _needed_config(name: str, stem: str) -> str:
    """Returns '; NAME needs CONFIG' if only another config has a model of this name, or ''."""
    other = next(other for other in STEMS if other != stem)
    for spelling in (name, _usual_spelling(name)):
        if exists(spelling, stem):
            return ""
        if exists(spelling, other):
            return f"; {spelling} needs {CONFIGS[other]}"
    return ""


def _usual_spelling(name: str) -> str:
    """Returns a name in lower case, with hyphens between its parts."""
    return re.sub(r"[\s_-]+", "-", name.strip()[:100]).casefold()


def exists(name: str, stem: str) -> bool:
    """Returns True if a name stands for a model that can be built with a stem."""
    try:
        fields = model_fields(name, stem)
        check_model_fields(ConfigDict(FIELDS | {"norm": "batch"} | fields))
    except (ConfigError, ValueError):
        return False
    return True


def nearest_models(name: str, stem: str) -> list[str]:
    """Returns the names of existing models that are nearest to a name, at most two.

    The family and the options are the nearest by spelling. If the family has no model of the given
    depth, the results are the next smaller and the next larger model.

    Args:
      name: a name for which there is no model, such as 'resnet-21', 'ResNet_56' or 'vgg13_bn'.
      stem: 'cifar' or 'imagenet'.
    """
    text = re.sub(r"[\s_-]+", "-", name.strip()[:100])
    if (usual := _usual_spelling(name)) != name and exists(usual, stem):
        return [usual]
    # The digit of 'v2' is no depth.
    depth_and_rest = r"(?!(?<=v)2(?!\d))([0-9]{1,6})(?!\d)(.*)"
    match = re.match(rf"([^\W\d_](?:[^\W\d_]|-|v2)*?)-?(?:{depth_and_rest})?$", text)
    if match is None:
        return []
    for form in nearest_forms(match[1].strip("-")):
        if not match[2]:
            names = (name for name in form.examples if exists(name, stem))
            return list(itertools.islice(names, 1))
        depth = int(match[2])
        suggestions = form.suggestions((match[3] or "").strip("-"), stem)
        for suggested in suggestions:
            candidate = suggested.format(depth=depth)
            if candidate != name and exists(candidate, stem):
                return [candidate]
        for suggested in suggestions:
            if found := _neighbors(suggested, depth, stem):
                return found
    return []


def nearest_forms(start: str) -> list[NameForm]:
    """Returns the forms of names whose text before the depth is nearest to `start`."""
    forms: dict[str, NameForm] = {}
    for family in FAMILIES.values():
        for form in family.name_forms:
            forms |= dict.fromkeys((form.start, *form.other_starts), form)
    lower = start.casefold()
    nearest = [lower] if lower in forms else nearest_names(lower, tuple(forms))
    return list({forms[text].start: forms[text] for text in nearest}.values())


def _neighbors(suggested: str, depth: int, stem: str) -> list[str]:
    """Returns the next smaller and the next larger model.

    Args:
      suggested: name with '{depth}' in place of the depth.
      depth: a depth that does not exist.
      stem: 'cifar' or 'imagenet'.
    """
    below = range(depth - 1, max(0, depth - MAX_GAP), -1)
    above = range(depth + 1, depth + MAX_GAP)
    found: list[str] = []
    for depths in (below, above):
        names = (suggested.format(depth=other) for other in depths)
        found += itertools.islice((name for name in names if exists(name, stem)), 1)
    return found
