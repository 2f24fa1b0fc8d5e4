"""Types of the fields in the JSON files of a run, and their checks.

Unknown fields may have any value, because newer versions of flaxres may write such fields.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import msgspec
from msgspec import Meta

from flaxres.config import default_fields
from flaxres.config_types import check_types
from flaxres.errors import ConfigError, DamagedFileError, first_few, printable
from flaxres.run.environments import EARLIER, Environment
from flaxres.run.text_files import read_regular

MAX_DOCUMENT_BYTES = 64 << 20  # largest JSON file that is read whole
MAX_SHOWN = 60  # characters of a value in a message

Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Step = Annotated[int, Meta(ge=0, le=2**53)]  # exact in float64
Name = Annotated[str, Meta(max_length=4096)]


class FieldType(NamedTuple):
    """Type of a field.

    Attributes:
      type: type that msgspec checks.
      text: description of valid values, for error messages.
    """

    type: Any
    text: str


COUNT = FieldType(Count, "an integer of at least 1")
STEP = FieldType(Step, "an integer of at least 0")
NUMBER = FieldType(float, "a finite number")
POSITIVE = FieldType(Annotated[float, Meta(gt=0)], "a number above 0")
PERCENTAGE = FieldType(Annotated[float, Meta(ge=0, le=100)], "a percentage from 0 to 100")
OPTIONAL_TEXT = FieldType(Name | None, "text or null")
LAYER_VALUES = FieldType(dict[str, float | None], "an object of numbers by layer")

INFO_TYPES = {
    **{"params": COUNT, "devices": COUNT, "processes": COUNT},
    **dict.fromkeys(("device", "jax", "flaxres", "torch", "commit"), OPTIONAL_TEXT),
    EARLIER: FieldType(list[Environment], "a list of objects with an until_step"),
}
# Splits with metrics; 'ema_': those of the average weights (`flaxres.training.weight_average`).
SPLITS = ("train", "test", "validation", "ema_test", "ema_validation")
METRIC_TYPES = {
    **{"step": STEP, "images_per_second": POSITIVE},
    **dict.fromkeys(("learning_rate", "gradient_norm", "data_wait_percent"), NUMBER),
    **{f"{split}_loss": NUMBER for split in SPLITS},
    **{f"{split}_error": PERCENTAGE for split in SPLITS},
}
# `flaxres.training.layer_statistics` defines the quantities.
LAYER_TYPES = {
    "step": STEP,
    **dict.fromkeys(("gradient", "backward", "activation"), LAYER_VALUES),
}
CONFIG_COUNTS = dict.fromkeys(("num_steps", "batch_size", "num_replicas"), COUNT)
# Config fields that every version of flaxres has written.
REQUIRED_CONFIG_FIELDS = ("seed", "num_steps", "batch_size", "model.name", "dataset.name")


def check_fields(fields: Mapping[str, Any], types: Mapping[str, FieldType], where: str) -> None:
    """Checks the values of known fields.

    Args:
      fields: values by name.
      types: types by name.
      where: start of an error message: the file, and the line or the run in it.

    Raises:
      DamagedFileError: a value is not valid for its field; the message names both.
    """
    for name in [name for name in types if name in fields]:
        try:
            msgspec.convert(fields[name], types[name].type)
        except (msgspec.ValidationError, RecursionError):
            raise DamagedFileError(
                f"{where}: {name!r} must be {types[name].text}, got {shown_json(fields[name])}"
            ) from None


def check_config_fields(fields: Mapping[str, Any], where: str) -> None:
    """Checks that the fields of a flattened config have the types of their defaults.

    Args:
      fields: values by name, such as 'model.depth'.
      where: start of an error message: the file, and the line or the run in it.

    Raises:
      DamagedFileError: a value is not valid for its field; the message names both.
    """
    defaults = default_fields()
    for name in fields.keys() - defaults.keys():
        parent = name.rpartition(".")[0]
        if parent in defaults:
            raise DamagedFileError(f"{where}: {parent!r} must be a value, got an object")
        if any(field.startswith(f"{name}.") for field in defaults):
            raise DamagedFileError(
                f"{where}: {name!r} must be an object of fields, got {shown_json(fields[name])}"
            )
    check_fields(fields, CONFIG_COUNTS, where)
    try:
        check_types(fields, {name: defaults[name] for name in defaults if name in fields})
    except ConfigError as error:
        raise DamagedFileError(f"{where}: {error}") from None


def check_object(value: Any, where: str) -> dict[str, Any]:
    """Returns `value` if it is a JSON object.

    Raises:
      DamagedFileError: `value` is not a JSON object.
    """
    if not isinstance(value, dict):
        raise DamagedFileError(f"{where} must be a JSON object, got {shown_json(value)}")
    return value


def require_fields(fields: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    """Checks that fields are present.

    Raises:
      DamagedFileError: fields are missing; the message names the first ones.
    """
    if missing := [name for name in names if name not in fields]:
        raise DamagedFileError(f"{where} lacks {first_few([repr(m) for m in missing], 3)}")


def read_document(path: Path) -> Any:
    """Reads a whole JSON file.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: the file is not regular, cannot be read or is not valid JSON.
        Non-finite numbers, integers of more than 64 bits and repeated names are not accepted.
    """
    try:
        return json.loads(
            read_regular(path, MAX_DOCUMENT_BYTES).decode("utf-8-sig"),
            object_pairs_hook=_reject_repeated_names,
            parse_constant=_reject_constant,
            parse_float=_parse_finite,
            parse_int=_parse_int64,
        )
    except UnicodeDecodeError as error:
        raise DamagedFileError(
            f"{path} must be UTF-8 text, but byte {error.start} is not"
        ) from None
    except json.JSONDecodeError as error:
        reason = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise DamagedFileError(f"{path} is not valid JSON ({reason})") from None
    except ValueError as error:
        raise DamagedFileError(f"{path} is not valid JSON ({error})") from None
    except RecursionError:
        raise DamagedFileError(
            f"{path} is not valid JSON (objects are nested too deeply)"
        ) from None


def _reject_repeated_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{repeated!r} is given twice")
    return values


def _reject_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _parse_finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:MAX_SHOWN]} is too large")
    return value


def _parse_int64(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= (value := int(text)) < 2**63:
        raise ValueError(f"{text[:MAX_SHOWN]} has more than 64 bits")
    return value


def shown_json(value: object) -> str:
    """Formats a JSON value for an error message, on one line and shortened."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list" if len(value) > 4 or not all(map(_is_scalar, value)) else _shortened(value)
    return _shortened(value)


def _is_scalar(value: object) -> bool:
    return not isinstance(value, dict | list)


def _shortened(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except ValueError:  # an integer of more than 4300 digits
        return "an integer of thousands of digits"
    text = printable(text)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
