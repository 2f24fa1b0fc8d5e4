"""Model families: what flaxres has to know about a family, and checks of its config fields.

A family is one file in `flaxres/models/`, which ends with a `Family`. `flaxres.models.registry`
lists all families.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from flaxres.field_checks import FieldChecker
from flaxres.models.layers import STEM_STRIDES, BaseModel

COUNT_WORDS = {2: "two ", 3: "three ", 4: "four ", 5: "five "}


def first_activations(model: ConfigDict, image_size: int, filters: int | None = None) -> int:
    """Returns the number of outputs of the first convolution for one image, at least.

    Args:
      model: an experiment's `config.model`.
      image_size: height and width of the images, in pixels.
      filters: number of filters of the first convolution; by default that of the first stage.
    """
    # The stem for ImageNet has a convolution with stride 2 before its pooling.
    stride = 1 if STEM_STRIDES[model.stem] == 1 else 2
    return (model.widths[0] if filters is None else filters) * (image_size // stride) ** 2


@dataclasses.dataclass(frozen=True)
class NameForm:
    """Names of models that begin with the same text, such as 'resnet-20' and 'resnet-56-B'.

    Attributes:
      start: text before the depth, without the hyphen.
      pattern: regular expression that matches a whole name.
      read: function that reads the pattern's named groups and the stem ('cifar' or 'imagenet'). It
        returns fields of `config.model`, including `name` (the family).
      examples: names, of which the first that exists with a stem is suggested for a name without a
        depth.
      suggest: function of the text after the depth and the stem. It returns names with '{depth}' in
        place of the depth, the nearest options first.
      other_starts: texts that other libraries and papers use instead of `start`, in lower case.
    """

    start: str
    pattern: str
    read: Callable[[Mapping[str, str | Any], str], dict[str, Any]]
    examples: tuple[str, ...]
    suggest: Callable[[str, str], Iterable[str]] | None = None
    other_starts: tuple[str, ...] = ()

    def suggestions(self, rest: str, stem: str) -> list[str]:
        """Returns the names of `suggest`, by default START-{depth}."""
        if self.suggest is None:
            return [f"{self.start}-{{depth}}"]
        return list(self.suggest(rest, stem))


@dataclasses.dataclass(frozen=True)
class Family:
    """A model family.

    Attributes:
      fields: names in `flaxres.models.fields.FIELDS` that the family reads. The other fields must
        have their defaults.
      check: function that checks the fields of `config.model`. It raises ConfigError or ValueError
        if they describe no model.
      build: function that reads `config.model` and returns a constructor of the model. The
        constructor accepts the attributes of `BaseModel`.
      name_forms: forms of the names of its models. A family without any is chosen by
        `config.model.name` and its fields.
      model_name: function that returns the name of a model, given its `config.model`; by default
        FAMILY-DEPTH.
      min_params: function of `config.model` and the height of the images in pixels (0 if it is not
        known). It returns a lower bound of the number of parameters, such as the weights of most
        convolutions, by which models that exceed the memory are refused.
      first_activations: function of the same arguments that returns the number of outputs of the
        first convolution for one image, at least.
    """

    fields: tuple[str, ...]
    check: Callable[[ConfigDict], None]
    build: Callable[[ConfigDict], Callable[..., BaseModel]]
    name_forms: tuple[NameForm, ...] = ()
    model_name: Callable[[ConfigDict], str] = lambda model: f"{model.name}-{model.depth}"
    min_params: Callable[[ConfigDict, int], int] = lambda model, image_size: 0
    first_activations: Callable[[ConfigDict, int], int] = lambda model, image_size: 0


def require(condition: bool, model: ConfigDict, field: str, rule: str) -> None:
    """Checks a condition on a field of a model.

    Args:
      condition: True if the value is allowed.
      model: an experiment's `config.model`.
      field: name of the field in `model`.
      rule: the allowed values, in words that follow "must be".

    Raises:
      ConfigError: the condition is False.
    """
    FieldChecker({f"model.{field}": model[field]}).require(condition, f"model.{field}", rule)


def require_one_of(model: ConfigDict, field: str, allowed: Iterable[str]) -> None:
    """Checks that a field of a model has one of the allowed values; raises ConfigError if not."""
    FieldChecker({f"model.{field}": model[field]}).require_one_of(f"model.{field}", allowed)


def require_widths(model: ConfigDict, field: str, count: int | None = None) -> None:
    """Checks that a field of a model holds positive integers.

    Args:
      model: an experiment's `config.model`.
      field: name of the field in `model`.
      count: how many there must be; None for any number.

    Raises:
      ConfigError: it does not.
    """
    widths = model[field]
    are_positive = all(type(width) is int and width > 0 for width in widths)
    is_complete = count is None or len(widths) == count
    number = "" if count is None else COUNT_WORDS.get(count, f"{count} ")
    require(are_positive and is_complete, model, field, f"{number}positive numbers of filters")


def conv3x3_params(counts: Iterable[int], widths: Iterable[int], inputs: int) -> int:
    """Returns the number of weights of 3x3 convolutions one after the other, without biases.

    Args:
      counts: number of convolutions in each stage.
      widths: number of filters in each stage.
      inputs: number of input channels of the first convolution.
    """
    params = 0
    for count, width in zip(counts, widths, strict=True):
        params += 9 * inputs * width + 9 * width**2 * (count - 1)
        inputs = width
    return params


def dense_params(inputs: int, hidden: Iterable[int]) -> int:
    """Returns the number of weights of dense layers one after the other, without biases."""
    params = 0
    for outputs in hidden:
        params += inputs * outputs
        inputs = outputs
    return params
