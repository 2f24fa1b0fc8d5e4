"""Reference page of the config fields."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
from typing import Any

import configs
from flaxres import aliases
from flaxres.config import default_config, flatten
from flaxres.durations import DURATION_FIELDS
from flaxres.durations import RULE as DURATION_RULE
from flaxres.models.registry import FAMILIES, FIELDS
from flaxres.run import workdir
from tools.docs.field_comments import FieldComment, field_comments
from tools.docs.field_rules import Recording, Rule, record_rules
from tools.docs.text import code, inline, page, properties, sentence

INTRODUCTION = """
A config holds every number of an experiment. Set a field on the command line with
`--config.FIELD=VALUE`, in a config file with `config.FIELD = VALUE`, or in Python with
`flaxres.get_config("digits:resnet-20", **{"FIELD": VALUE})`. A wrong value is refused with the rule
that stands here: `FIELD must be RULE, got VALUE`. Durations are in steps (a step is one optimizer
update on one batch), errors in percent. Text gives a duration in other units, such as
`num_steps='1.5ep'` in epochs; it is converted into steps when a run starts.

He15 is [arXiv 1512.03385](https://arxiv.org/abs/1512.03385), the paper that is reproduced.
This page is generated from the code that defines and checks the fields.
"""


def fields_page() -> str:
    """Returns the page: one section for each group of fields, one entry for each field."""
    comments, recording = field_comments(), record_rules()
    defaults = flatten(default_config())
    order = [field for field in comments if field in defaults]
    order += [field for field in defaults if field not in comments]
    others = _other_values(defaults)
    parts = [INTRODUCTION.strip()]
    by_section = itertools.groupby(order, lambda field: _comment(comments, field).section)
    for section, fields in by_section:
        parts.append(f"## {section or 'Other fields'}")
        for field in fields:
            comment = _comment(comments, field)
            parts.append(f"### `{field}` {{ #{field} }}")
            parts.append(inline(sentence(comment.text)))
            rows = [
                ("Type", inline(_type(field, recording))),
                ("Default", code(_shown(defaults[field]))),
                ("Allowed", _allowed(recording.rules.get(field, []))),
                ("Source", inline("; ".join(comment.sources))),
                ("Other configs", _others(others.get(field, {}))),
                ("Read by", _families(field)),
                ("On resume", "may be changed" if field in workdir.CHANGEABLE_FIELDS else ""),
                ("Former name", ", ".join(map(code, _former_names(field)))),
                ("Defined in", code(f"{comment.file}:{comment.line}") if comment.file else ""),
            ]
            parts.append(properties(rows))
    return page("Config fields", *parts)


def _comment(comments: dict[str, FieldComment], field: str) -> FieldComment:
    return comments.get(field, FieldComment("", "", "", 0))


def _type(field: str, recording: Recording) -> str:
    is_duration = field in DURATION_FIELDS and "tuple" not in recording.types.get(field, "")
    return DURATION_RULE if is_duration else recording.types.get(field, "")


def _shown(value: Any) -> str:
    """Returns a value as it is written in Python, with at most six digits of a fraction."""
    if isinstance(value, list | tuple):
        items = [_shown(item) for item in value]
        return f"({', '.join(items)}{',' * (len(items) == 1)})"
    if isinstance(value, float):
        return f"{value:.6g}" if value != int(value) else str(value)
    return f"'{value}'" if isinstance(value, str) else str(value)


def _allowed(rules: list[Rule]) -> str:
    """Returns the rules of a field as HTML, with the models to which a rule applies."""
    everywhere = set().union(*(rule.models for rule in rules)) if rules else set()
    lines = []
    for rule in rules:
        text = "one of " + ", ".join(map(code, rule.choices)) if rule.choices else inline(rule.text)
        is_general = rule.models >= everywhere or "if " in rule.text or " for " in rule.text
        # Checks of the data and of transfer run for examples that all have one model.
        is_model_rule = any(len(other.models) > 1 for other in rules) and not is_general
        names = sorted(rule.models)
        note = f" ({', '.join(names)})" if is_model_rule and len(names) < 6 else ""
        lines.append(text + note)
    return "<br>".join(lines)


def _families(field: str) -> str:
    """Returns the model families that read a field of `config.model`, or ''."""
    name = field.removeprefix("model.")
    if name == field or name not in FIELDS:
        return ""
    families = [family for family, entry in FAMILIES.items() if name in entry.fields]
    return ", ".join(map(code, families))


def _former_names(field: str) -> list[str]:
    return [former for former, current in aliases.FIELDS.items() if current == field]


def _other_values(defaults: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Returns the values in `configs/` that differ from the default, by field and config file."""
    others: dict[str, dict[str, str]] = {}
    for entry in pkgutil.iter_modules(configs.__path__):
        if entry.ispkg:
            continue
        module = importlib.import_module(f"{configs.__name__}.{entry.name}")
        if not hasattr(module, "get_config"):
            continue
        for field, value in flatten(module.get_config()).items():
            is_other = field in defaults and value != defaults[field]
            if is_other and not field.startswith("model.") and field != "name":
                others.setdefault(field, {})[entry.name] = _shown(value)
    return others


def _others(values: dict[str, str]) -> str:
    """Returns HTML such as '300 (digits), 2000 (cifar10_short)'."""
    by_value: dict[str, list[str]] = {}
    for config, value in values.items():
        by_value.setdefault(value, []).append(config)
    items = (f"{code(value)} ({', '.join(names)})" for value, names in by_value.items())
    return ", ".join(items)
