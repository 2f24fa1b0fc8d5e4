"""Nearest models: suggestions for a model name or a depth that does not exist.

Every suggested name is checked, so it stands for a model that can be built.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from ml_collections import ConfigDict

from flaxres.errors import ConfigError
from flaxres.models.names import model_fields, model_name
from flaxres.models.registry import FIELDS, STEMS, check_model_fields
from flaxres.models.shortcuts import SHORTCUTS
from flaxres.suggestions import nearest_names, suggestion

MAX_GAP = 1_000  # layers between a depth and the nearest one that exists
# Names in other libraries and papers -> family.
OTHER_NAMES = {
    "preactresnet": "preact",
    "preact-resnet": "preact",
    "preresnet": "preact",
    "resnetv2": "preact",
    "densenetbc": "densenet-bc",
    "vggnet": "vgg",
    "resnet-v2": "preact",
}
# Models of each family, of which the first one that exists with a stem is suggested.
EXAMPLES = {
    "plain": ("plain-20", "plain-34"),
    "resnet": ("resnet-56", "resnet-50"),
    "preact": ("preact-110", "preact-50"),
    "resnext": ("resnext-29-8x64d", "resnext-50-32x4d"),
    "densenet": ("densenet-40-12", "densenet-121"),
    "densenet-bc": ("densenet-bc-100-12", "densenet-121"),
    "vgg": ("vgg-13",),
    "lenet": ("lenet-5",),
    "stargan": ("stargan-6",),
}
FAMILY_NAMES = (*EXAMPLES, *OTHER_NAMES)
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


def model_hint(name: str, stem: str) -> str:
    """Returns the end of an error message about a model that does not exist.

    Args:
      name: the name of the model.
      stem: 'cifar' or 'imagenet'.

    Returns:
      '; NAME needs CONFIG', if another config has a model of that name, and '; did you mean NAME?'.
      Empty if no model is near.
    """
    other = next(other for other in STEMS if other != stem)
    needs = f"; {name} needs {CONFIGS[other]}" if exists(name, other) else ""
    return needs + suggestion(nearest_models(name, stem))


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
    text = re.sub(r"[\s_-]+", "-", name.strip())[:100]
    match = re.match(r"([^\W\d_](?:[^\W\d_]|-|v2)*?)-?(?:([0-9]{1,6})(?!\d)(.*))?$", text)
    if match is None:
        return []
    families = nearest_families(match[1].strip("-"))
    for family in families:
        if not match[2]:
            names = (name for name in EXAMPLES[family] if exists(name, stem))
            return list(itertools.islice(names, 1))
        depth = int(match[2])
        forms = list(_forms(family, (match[3] or "").strip("-"), stem))
        for form in forms:
            candidate = form.format(depth=depth)
            if candidate != name and exists(candidate, stem):
                return [candidate]
        for form in forms:
            if found := _neighbors(form, depth, stem):
                return found
    return []


def nearest_families(name: str) -> list[str]:
    """Returns the families whose names are nearest to a name, in any spelling."""
    lower = name.casefold()
    nearest = [lower] if lower in FAMILY_NAMES else nearest_names(lower, FAMILY_NAMES)
    return list(dict.fromkeys(OTHER_NAMES.get(family, family) for family in nearest))


def _forms(family: str, rest: str, stem: str) -> Iterator[str]:
    """Returns names of a family with '{depth}' for the depth, the nearest options first.

    Args:
      family: name of the family; 'densenet-bc' counts as one.
      rest: text after the depth, such as 'b' or '32x4d'.
      stem: 'cifar' or 'imagenet'.
    """
    numbers = re.findall(r"\d{1,5}", rest)
    name = f"{family}-{{depth}}"
    if family == "resnext":
        groups, width = numbers[:2] if len(numbers) > 1 else ("8", "64")
        yield f"{name}-{groups}x{width}d"
        if stem == "imagenet":
            yield f"{name}-32x4d"
    elif family.startswith("densenet"):
        if stem == "imagenet":
            yield "densenet-{depth}"
        else:
            is_bc = "bc" in family or rest.casefold().startswith("bc")
            yield f"{'densenet-bc' if is_bc else 'densenet'}-{{depth}}-{(numbers or ['12'])[0]}"
    else:
        options = [option for option in _options(family) if option]
        if rest:
            yield from (f"{name}-{option}" for option in nearest_names(rest, options))
            yield from (f"{name}-{option}" for option in options if option == rest)
        yield name


def _options(family: str) -> list[str]:
    """Returns the texts that may follow the depth in names of a family."""
    if family == "vgg":
        return ["skip"]
    if family not in ("plain", "resnet", "preact"):
        return []
    shortcuts = ["", *(s for s in SHORTCUTS if s != "none")] if family != "plain" else [""]
    blocks = ("", "basic", "bottleneck")
    return ["-".join(filter(None, pair)) for pair in itertools.product(blocks, shortcuts)]


def _neighbors(form: str, depth: int, stem: str) -> list[str]:
    """Returns the next smaller and the next larger model of a form."""
    below = range(depth - 1, max(0, depth - MAX_GAP), -1)
    above = range(depth + 1, depth + MAX_GAP)
    found: list[str] = []
    for depths in (below, above):
        names = (form.format(depth=other) for other in depths)
        found += itertools.islice((name for name in names if exists(name, stem)), 1)
    return found
