"""Conversion of the durations in a config, such as num_steps='164ep', into steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from flaxres.config import check_config, flatten
from flaxres.data import num_train_images
from flaxres.durations import (
    DURATION_FIELDS,
    accept_text,
    locate,
    parse_duration,
    texts_in,
    to_steps,
)


def convert_durations(
    config: ConfigDict, count_images: Callable[[ConfigDict], int] = num_train_images
) -> ConfigDict:
    """Checks a config, and converts its durations that are text into steps (`flaxres.durations`).

    Args:
      config: config of an experiment.
      count_images: returns the number of training images of a `config.dataset`. It is called only
        for durations in epochs.

    Returns:
      A converted copy, or the config itself if no duration is text.

    Raises:
      ConfigError: a field is invalid.
      DatasetError: a duration is in epochs, and the data set cannot be opened.
    """
    check_config(config)
    parts = [locate(config, field) for field in DURATION_FIELDS]
    texts = [text for group, name in parts for text in texts_in(group[name])]
    if not texts:
        return config
    units = {parsed[1] for text in texts if (parsed := parse_duration(text))}
    num_images = count_images(config.dataset) if "epochs" in units else 0
    converted = config.copy_and_resolve_references()
    with converted.ignore_type():
        for field in DURATION_FIELDS:
            group, name = locate(converted, field)
            group[name] = _convert(group[name], config.batch_size, num_images)
    accept_text(converted)  # a copy without references holds only steps
    check_config(converted)
    return converted


def describe_durations(config: ConfigDict, converted: ConfigDict) -> str | None:
    """Returns one line on the durations that were converted, or None if all were in steps.

    Args:
      config: config before the conversion.
      converted: config after it, from `convert_durations`.
    """
    before, after = flatten(config), flatten(converted)
    changes = [
        f"{field} {_listed(after[field])} ({_listed(before[field])})"
        for field in DURATION_FIELDS
        if before[field] != after[field]
    ]
    return f"durations in steps: {'; '.join(changes)}" if changes else None


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _convert(value: Any, batch_size: int, num_images: int) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_convert(element, batch_size, num_images) for element in value)
    return to_steps(value, batch_size, num_images) if isinstance(value, str) else value
