"""Durations: numbers of steps, or text in steps, epochs or examples such as '1.5ep'.

Config fields in `DURATION_FIELDS` accept '10k steps', '1.5ep' and '1_000_000ex'. They are converted
into steps in one place, `flaxres.config_durations`; everything else reads steps.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FieldReference, config_flags

from flaxres.errors import ConfigError
from flaxres.field_checks import shown

# Fields in steps. num_steps comes first, because other fields may be computed from it.
DURATION_FIELDS = (
    *("num_steps", "boundaries", "linear_warmup_steps", "cooldown_steps"),
    *("warmup.window", "warmup.max_steps"),
    *("log_every", "log_layers_every", "eval_every", "checkpoint_every"),
)
RULE = "an integer, or text such as '10k steps', '1.5ep' or '1_000_000ex'"
TUPLE_RULE = "a tuple of integers, such as (1, 2), or of text such as '82ep'"
EPOCHS = "num_epochs"  # num_epochs=164 means num_steps='164ep'

# Steps that stand for text while other fields are checked; 1 for fields that are not listed.
STAND_INS = {"num_steps": 2**31 - 1, "linear_warmup_steps": 0, "log_layers_every": 0}

NUMBER = r"\d[\d_]{0,24}(?:\.\d{1,24})?"
DURATION = re.compile(rf"\s*({NUMBER})\s*(k|M)?\s*([a-z]*)\s*", re.ASCII)
FACTORS = {None: 1, "k": 1_000, "M": 1_000_000}
STEP_UNITS = ("", "step", "steps")
EPOCH_UNITS = ("ep", "epoch", "epochs")
EXAMPLE_UNITS = ("ex", "example", "examples", "image", "images")


class Duration(abc.ABC):  # noqa: B024 (only a type, for ml_collections)
    """Type of a config field that holds a number of steps or, until it is converted, text."""


Duration.register(int)
Duration.register(str)


class DurationParser(flags.ArgumentParser[int | str]):
    """Parser of --config.FIELD=VALUE for durations: an integer, or the text as it is."""

    syntactic_help = "a duration"

    def parse(self, argument: object) -> int | str:
        """Returns an integer if the argument is one, otherwise the text."""
        try:
            return flags.IntegerParser().parse(argument)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return str(argument)

    def flag_type(self) -> str:
        """Returns the name of the type for --help."""
        return "duration"


config_flags.register_flag_parser_for_type(Duration, DurationParser())


def parse_duration(text: str) -> tuple[Fraction, str] | None:
    """Parses text such as '1.5ep' into a number and a unit: 'steps', 'epochs' or 'examples'.

    Returns:
      The number and the unit, or None if the text is not a duration.
    """
    match = DURATION.fullmatch(text)
    if match is None:
        return None
    number = Fraction(match[1].replace("_", "")) * FACTORS[match[2]]
    for unit, names in (
        ("steps", STEP_UNITS),
        ("epochs", EPOCH_UNITS),
        ("examples", EXAMPLE_UNITS),
    ):
        if match[3] in names:
            return number, unit
    return None


def is_duration(value: object) -> bool:
    """Returns True for text that `parse_duration` accepts."""
    return isinstance(value, str) and parse_duration(value) is not None


def to_steps(text: str, batch_size: int, num_images: int) -> int:
    """Converts a duration into steps: the nearest integer, halves up, and at least 1 except for 0.

    Args:
      text: a duration, such as '1.5ep'.
      batch_size: images per step.
      num_images: number of training images, that is, of an epoch. Read only for epochs.

    Raises:
      ValueError: the text is not a duration.
    """
    parsed = parse_duration(text)
    if parsed is None:
        raise ValueError(f"must be {RULE}, got {shown(text)}")
    number, unit = parsed
    if unit == "epochs":
        number *= num_images
    if unit != "steps":
        number /= batch_size
    steps = (2 * number + 1).__floor__() // 2
    return max(1, steps) if number else 0


def accept_text(config: ConfigDict) -> None:
    """Lets the fields that hold a number of steps hold text as well; tuples do already."""
    with config.ignore_type():
        for field in DURATION_FIELDS:
            group, name = locate(config, field)
            if isinstance(group[name], int):
                group[name] = FieldReference(group[name], field_type=Duration)


def with_stand_ins(config: ConfigDict, flat: dict[str, Any]) -> tuple[ConfigDict, dict[str, Any]]:
    """Replaces durations that are text by steps that pass every check, for checks without the data.

    Args:
      config: config of an experiment.
      flat: its fields by dotted name.

    Returns:
      Copies of both, or both themselves if no duration is text.

    Raises:
      ConfigError: a text is not a duration.
    """
    given = {field: texts for field in DURATION_FIELDS if (texts := texts_in(flat[field]))}
    if not given:
        return config, flat
    for field, texts in given.items():
        for text in texts:
            if not is_duration(text):
                rule = TUPLE_RULE if field == "boundaries" else RULE
                raise ConfigError(f"{field} must be {rule}, got {shown(text)}")
    config, flat = config.copy_and_resolve_references(), dict(flat)
    with config.ignore_type():
        for field in given:
            group, name = locate(config, field)
            if field == "boundaries":
                steps: Any = tuple(value for value in flat[field] if not isinstance(value, str))
            else:
                steps = STAND_INS.get(field, 1)
            group[name] = flat[field] = steps
    return config, flat


def locate(config: ConfigDict, field: str) -> tuple[ConfigDict, str]:
    """Returns the part of a config that has a field, and the field's name in it."""
    group, _, name = field.rpartition(".")
    return (config[group] if group else config), name


def texts_in(value: object) -> list[str]:
    """Returns the text in the value of a field, which may be a list or tuple."""
    values = value if isinstance(value, list | tuple) else [value]
    return [element for element in values if isinstance(element, str)]


def epochs_as_steps(value: object) -> str:
    """Returns num_epochs=164 as the value '164ep' of num_steps.

    Raises:
      ConfigError: the value is not a number.
    """
    text = str(value).strip()
    is_number = not isinstance(value, bool) and re.fullmatch(rf"{NUMBER}|\.\d+", text)
    if not is_number:
        raise ConfigError(f"{EPOCHS} must be a number, such as 164 or 1.5, got {shown(value)}")
    return f"{text}ep"


def rename_epochs(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces num_epochs in a flattened config by num_steps.

    Raises:
      ConfigError: num_epochs is not a number, or both are given.
    """
    _check_one_length(fields)
    return {
        ("num_steps" if name == EPOCHS else name): (
            epochs_as_steps(value) if name == EPOCHS else value
        )
        for name, value in fields.items()
    }


def _check_one_length(fields: Collection[str]) -> None:
    """Checks that num_epochs and num_steps are not both among the given fields."""
    if {EPOCHS, "num_steps"} <= set(fields):
        raise ConfigError(f"{EPOCHS} and num_steps are both given; give one of them")


def rename_epochs_in_config(config: ConfigDict) -> None:
    """Replaces num_epochs in a config from a user's config file by num_steps, in place.

    Raises:
      ConfigError: num_epochs is not a number.
    """
    if EPOCHS not in config:
        return
    text = epochs_as_steps(config[EPOCHS])
    with config.unlocked(), config.ignore_type():
        del config[EPOCHS]
        config.num_steps = text


def expand_arguments(arguments: Sequence[str]) -> list[str]:
    """Replaces --config.num_epochs, and puts durations in --config.boundaries into quotes.

    Args:
      arguments: arguments without the program's name, such as ['--config.num_epochs=1.5'].

    Returns:
      The arguments as ml_collections parses them. Arguments after '--' are left alone.

    Raises:
      ConfigError: num_epochs is not a number, or num_steps is given too.
    """
    arguments = list(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    _check_one_length(re.findall(r"^--?config\.(\w+)", "\n".join(arguments[:end]), re.MULTILINE))
    expanded: list[str] = []
    field = ""  # of the argument before, if its value is the next argument
    for argument in arguments[:end]:
        match = re.fullmatch(r"(--?)config\.([\w.]+)(?:=(.*))?", argument, re.DOTALL)
        if match is None:
            expanded.append(_expand_value(field, argument) if field else argument)
            field = ""
            continue
        dashes, given, text = match.groups()
        name = "num_steps" if given == EPOCHS else given
        value = "" if text is None else f"={_expand_value(given, text)}"
        expanded.append(f"{dashes}config.{name}{value}")
        field = given if text is None else ""
    return expanded + arguments[end:]


def _expand_value(field: str, text: str) -> str:
    if field == EPOCHS:
        return epochs_as_steps(text)
    if field != "boundaries" or not re.search("[A-Za-z]", text) or re.search("['\"]", text):
        return text
    elements = [element.strip() for element in text.strip().strip("()").split(",")]
    quoted = (e if re.fullmatch(r"[\d_]+", e) else repr(e) for e in elements if e)
    return f"({','.join(quoted)},)"
