"""Allowed values of config fields, recorded while the checks of a config run.

The checks (`flaxres.config_checks`, `flaxres.data.options`, `flaxres.models.registry`) pass every
rule to a `FieldChecker`, also where the value is allowed. The recorded rules are therefore those of
the error messages: "FIELD must be RULE, got VALUE".
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

from ml_collections import ConfigDict

from flaxres.config import check_config, default_config, set_model
from flaxres.field_checks import FieldChecker
from flaxres.models.registry import EXAMPLES

IMAGENET_EXAMPLES = (
    *("plain-18", "resnet-50", "preact-50", "resnext-50-32x4d", "densenet-121", "vgg-13"),
    "resnetd-50",
    "repvgg-a0",
)
Site = tuple[str, int]  # file and line of a check


@dataclasses.dataclass
class Rule:
    """One rule of a field.

    Attributes:
      text: the allowed values, in words that follow "must be".
      choices: the allowed values, if the rule lists them.
      models: model families (with ' (imagenet)' for the ImageNet stem) for which it was checked.
    """

    text: str
    choices: tuple[str, ...] = ()
    models: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass
class Recording:
    """Rules that ran.

    Attributes:
      types: type of each field in words, such as 'an integer', by dotted name.
      rules: rules of each field, by dotted name.
      sites: places of the checks that ran.
    """

    types: dict[str, str] = dataclasses.field(default_factory=dict)
    rules: dict[str, list[Rule]] = dataclasses.field(default_factory=dict)
    sites: set[Site] = dataclasses.field(default_factory=set)

    def add(self, field: str, text: str, choices: tuple[str, ...], model: str) -> None:
        """Adds a rule, unless one that differs only in numbers of the config is there."""
        rules = self.rules.setdefault(field, [])
        for rule in rules:
            if _without_numbers(rule.text) == _without_numbers(text):
                rule.models.add(model)
                return
        rules.append(Rule(text, choices, {model}))


def _without_numbers(text: str) -> str:
    return re.sub(r"\(?\d[\d,. ]*\)?|'[^']*'$", "#", text)


def example_configs() -> Iterator[ConfigDict]:
    """Yields valid configs that together reach every check."""

    def changed(model: str = "resnet-20", stem: str = "cifar", **fields: Any) -> ConfigDict:
        config = set_model(default_config(), model, stem)
        config.update_from_flattened_dict(fields)
        return config

    yield changed()
    for model in EXAMPLES.split(", "):
        yield changed(model)
    for model in IMAGENET_EXAMPLES:
        yield changed(model, "imagenet")
    yield changed("resnet-20-dropout")
    yield changed("plain-20", **{"model.init": "delta-orthogonal"})
    yield changed("plain-20", **{"model.activation": "tanh", "model.norm": "none"})
    yield changed(num_replicas=2)
    yield changed(accumulation_steps=2)
    yield changed(schedule="wsd", cooldown_steps=1_000)
    yield changed(**{"dataset.placement": "stream"})
    streamed: dict[str, Any] = {"dataset.placement": "stream", "dataset.image_size": 224}
    for crop in ("scale", "random-resized"):
        yield changed(**streamed, **{"augment.crop": crop})
    yield changed(init_from="FILE", **{"transfer.shortcut_padding": "end"})


def record_rules(configs: Iterable[ConfigDict] | None = None) -> Recording:
    """Returns the rules that `check_config` checks for configs (default: `example_configs`)."""
    recording = Recording()
    for config in example_configs() if configs is None else configs:
        label = config.model.name + (" (imagenet)" if config.model.stem == "imagenet" else "")
        with _record(recording, label):
            check_config(config)
    return recording


@contextlib.contextmanager
def _record(recording: Recording, model: str) -> Iterator[None]:
    """Lets every `FieldChecker` add its rules to a recording, beside checking them."""
    of_type: list[str] = []  # field whose type is being checked

    def require(checker: FieldChecker, condition: bool, field: str, rule: str) -> None:
        recording.sites.update(_sites())
        if of_type:
            recording.types.setdefault(field, rule)
        else:
            recording.add(field, rule, (), model)
        originals["require"](checker, condition, field, rule)

    def require_one_of(checker: FieldChecker, field: str, allowed: Iterable[object]) -> None:
        values = tuple(map(str, allowed))
        recording.sites.update(_sites())
        recording.add(field, f"one of {', '.join(values)}", values, model)
        originals["require_one_of"](checker, field, values)

    def require_type(checker: FieldChecker, field: str, *arguments: Any) -> None:
        of_type.append(field)
        try:
            originals["require_type"](checker, field, *arguments)
        finally:
            of_type.pop()

    replacements: dict[str, Any] = {
        "require": require,
        "require_one_of": require_one_of,
        "require_type": require_type,
    }
    originals: dict[str, Callable[..., None]] = {
        name: getattr(FieldChecker, name) for name in replacements
    }
    with mock.patch.multiple(FieldChecker, **replacements):
        yield


def _sites() -> set[Site]:
    """Returns the places of the calls that led to a check."""
    sites, frame = set(), sys._getframe(2)
    while frame is not None and frame.f_code.co_name != "check_config":
        sites.add((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    return sites
