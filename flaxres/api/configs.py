"""Configs of experiments: `get_config`."""

from __future__ import annotations

import os

from ml_collections import ConfigDict

from flaxres.api.arguments import overrides_of, path_text
from flaxres.overrides import load_config


def get_config(source: str | os.PathLike[str], **overrides: object) -> ConfigDict:
    """Returns the config of an experiment, checked, with overrides.

        flaxres.get_config("digits:resnet-20", seed=1)
        flaxres.get_config("my_configs/birds.py:resnet-18", dataset={"data_dir": "birds"})
        flaxres.get_config("digits:plain-56", **{"augment.pad": 1})

    Args:
      source: NAME:MODEL for one of flaxres's configs (`configs/NAME.py`), or FILE.py:MODEL. Without
        a model, the config file chooses one.
      **overrides: values of fields. A group of fields is a dict, or its fields have dotted names.

    Raises:
      ArgumentError: `source` is no text or path, or num_steps and num_epochs are both given.
      ConfigError: there is no such file or model, or a field is unknown or has an invalid value.
    """
    return load_config(path_text(source, "source"), overrides_of(overrides))
