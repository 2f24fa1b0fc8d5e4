"""Evaluation of a run's newest checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from flaxres.checkpoint import Checkpoints
from flaxres.config import check_config
from flaxres.data import load_dataset
from flaxres.errors import CheckpointError
from flaxres.programs import Programs
from flaxres.replicas import mean
from flaxres.workdir import check_same_config
from flaxres.writers import Record


def evaluate_run(config: ConfigDict, workdir: Path, say: Callable[[str], None] = print) -> Record:
    """Evaluates the newest checkpoint of `workdir` on the whole of each split.

    Both with running statistics and without augmentation, so the training error is not the one
    logged during training.

    Raises:
      UserError: a bad config, no data, another config's workdir, or no checkpoint.
    """
    check_config(config)
    if not check_same_config(workdir, config):
        raise CheckpointError(f"workdir {workdir} holds no run; train it first with --mode=train")
    dataset = load_dataset(config.dataset)
    programs = Programs(config, dataset)
    with Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(programs.state_shape, say)
    if state is None:
        raise CheckpointError(f"workdir {workdir} holds no checkpoint yet")
    state = programs.devices.replicate(state)
    record: Record = {"step": int(np.max(state.step))}
    for name in ("train", "validation", "test"):
        if (split := getattr(dataset, name)) is not None:
            record |= mean(programs.evaluate(state, programs.put(split)).rates(name))
    return record
