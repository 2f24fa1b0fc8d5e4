"""Evaluation of a run's newest checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from flaxres.checkpoint import Checkpoints
from flaxres.config import check_config
from flaxres.data import load_dataset
from flaxres.errors import CheckpointError, ConfigError
from flaxres.population import BATCH_STATS, check_population, population_statistics
from flaxres.programs import Programs
from flaxres.replicas import mean
from flaxres.workdir import check_same_config
from flaxres.writers import Record


def evaluate_run(
    config: ConfigDict,
    workdir: Path,
    say: Callable[[str], None] = print,
    batch_stats: str = "running",
) -> Record:
    """Evaluates the newest checkpoint of `workdir` on the whole of each split.

    All without augmentation and not by the statistics of batches, so the training error is not the
    one logged during training.

    Args:
      config: of the run.
      workdir: of the run; nothing in it is changed.
      say: told in one line about each damaged checkpoint.
      batch_stats: what norms go by: the 'running' statistics of the checkpoint, or those of the
        'population' of training images, see `flaxres.population`.

    Raises:
      UserError: a bad config, no data, another config's workdir, or no checkpoint; a net that has
        no such statistics.
    """
    check_config(config)
    if batch_stats not in BATCH_STATS:
        raise ConfigError(f"batch_stats must be {' or '.join(BATCH_STATS)}, got {batch_stats!r}")
    if batch_stats == "population":
        check_population(config)
    if not check_same_config(workdir, config):
        raise CheckpointError(f"workdir {workdir} holds no run; train it first with --mode=train")
    dataset = load_dataset(config.dataset)
    programs = Programs(config, dataset)
    with Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(programs.state_shape, say)
    if state is None:
        raise CheckpointError(f"workdir {workdir} holds no checkpoint yet")
    if batch_stats == "population":
        state = state.replace(batch_stats=population_statistics(config, dataset, state.variables))
    state = programs.devices.replicate(state)
    record: Record = {"step": int(np.max(state.step))}
    for name in ("train", "validation", "test"):
        if (split := getattr(dataset, name)) is not None:
            record |= mean(programs.evaluate(state, programs.put(split)).rates(name))
    return record
