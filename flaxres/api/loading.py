"""Loading of trained models: `load` from a run, `load_pretrained` from a file or by name."""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from flaxres.api.arguments import (
    bool_of,
    config_of,
    integer_of,
    of_type,
    overrides_of,
    path_of,
    path_text,
)
from flaxres.api.input_images import PathName
from flaxres.api.trained import TrainedModel
from flaxres.errors import print_note
from flaxres.inference import pretrained, trained_model

BATCH_STATS_RULE = "'running' or 'population'"


def _with_methods(loaded: trained_model.TrainedModel) -> TrainedModel:
    fields: dict[str, Any] = {
        field.name: getattr(loaded, field.name) for field in dataclasses.fields(loaded)
    }
    return TrainedModel(**fields)


def load(
    workdir: PathName,
    *,
    step: int | None = None,
    batch_stats: str = "running",
    ema: bool = False,
    config: ConfigDict | None = None,
) -> TrainedModel:
    """Loads a checkpoint of a run; changes nothing in its directory.

        trained = flaxres.load("runs/resnet-20")
        trained.predict("photos/*.jpg").names

    Args:
      workdir: directory of the run.
      step: step of the checkpoint (default: the newest one).
      batch_stats: statistics that norms use: 'running' from the checkpoint, or 'population',
        recomputed over the training set.
      ema: if True, loads the moving average of the weights that a run with `ema_decay` keeps.
      config: config of the run, to change fields on which results do not depend, such as the
        directory of the data (default: the config stored in `workdir`).

    Raises:
      UserError: there is no run or no checkpoint, the run has several replicas or no average, or
        the population statistics cannot be computed.
    """
    directory = path_of(workdir)
    config = None if config is None else config_of(config)
    if step is not None:
        step = integer_of(step, "step", None, "an integer")
    ema = bool_of(ema, "ema")
    of_type(batch_stats, str, "batch_stats", BATCH_STATS_RULE)
    return _with_methods(
        trained_model.load_trained_model(directory, config, print_note, batch_stats, step, ema)
    )


def load_pretrained(
    source: PathName,
    config: ConfigDict | None = None,
    *,
    batch_stats: str = "running",
    **overrides: object,
) -> TrainedModel:
    """Loads a model from a weights file or by the name of pretrained weights of flaxres.

        trained = flaxres.load_pretrained("resnet-20-cifar10_jpeg")
        trained = flaxres.load_pretrained("birds.safetensors", dataset={"data_dir": "birds"})

    Args:
      source: a name, a weights file (NAME.safetensors), the directory of a run, or, with a config,
        a file of variables (NAME.msgpack) or a PyTorch state dict (`docs/weights.md`).
      config: config of the model and its data set; for weights with a config of their own, one
        with other fields of the data set and of the evaluation.
      batch_stats: statistics that norms use: 'running', or 'population', recomputed over the
        training set.
      **overrides: fields that replace those of the stored config, as in `get_config`.

    Raises:
      UserError: there is no such file or name; it cannot be read or belongs to another model; or a
        config or a data set is needed.
    """
    fields = overrides_of(overrides)
    given = path_text(source, "source")
    config = None if config is None else config_of(config)
    of_type(batch_stats, str, "batch_stats", BATCH_STATS_RULE)
    return _with_methods(pretrained.load_pretrained(given, config, print_note, batch_stats, fields))
