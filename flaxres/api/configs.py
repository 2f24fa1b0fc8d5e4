"""Configs of experiments: `get_config`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from ml_collections import ConfigDict

from flaxres.overrides import load_config


def get_config(source: str, **overrides: object) -> ConfigDict:
    """Returns the config of an experiment, checked, with overrides.

        flaxres.get_config("digits:resnet-20", seed=1)
        flaxres.get_config("my_configs/birds.py:resnet-18", dataset={"data_dir": "birds"})
        flaxres.get_config("digits:plain-56", **{"augment.pad": 1})

    Args:
      source: NAME:MODEL for one of flaxres's configs (`configs/NAME.py`), or FILE.py:MODEL. Without
        a model, the config file chooses one.
      **overrides: values of fields. A group of fields is a dict, or its fields have dotted names.

    Raises:
      ConfigError: there is no such file or model, or a field is unknown or has an invalid value.
    """
    return load_config(source, dict(flatten_overrides(overrides)))


def flatten_overrides(
    overrides: Mapping[str, object], prefix: str = ""
) -> Iterator[tuple[str, object]]:
    """Yields the fields of nested dicts by dotted name; paths become text."""
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            yield from flatten_overrides(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", os.fspath(value) if isinstance(value, os.PathLike) else value
