"""Evaluation over a whole split, and of a run's newest checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from flaxres.checkpoint import Checkpoints
from flaxres.config import check_config
from flaxres.data import load_dataset
from flaxres.errors import CheckpointError
from flaxres.metrics import Sums
from flaxres.programs import Programs
from flaxres.state import TrainState
from flaxres.steps import Arrays, Evaluate
from flaxres.workdir import check_same_config
from flaxres.writers import Record


def evaluate_split(evaluate: Evaluate, state: TrainState, arrays: Arrays, batch_size: int) -> Sums:
    """Sums over every image of a split, once each, whatever the batch size.

    Args:
      evaluate: compiled, of `flaxres.steps.make_evaluate`.
      state: parameters and running statistics.
      arrays: the split on the device.
      batch_size: images per call; the last call is filled up with -1.

    Returns:
      `Sums` with `count` equal to the size of the split, on the host.
    """
    size = len(arrays.labels)
    batch_size = min(batch_size, size)
    rows = np.arange(-(-size // batch_size) * batch_size, dtype=np.int32)
    rows = np.where(rows < size, rows, -1).reshape(-1, batch_size)
    parts = [evaluate(state, arrays, batch) for batch in rows]  # dispatched before the first read
    return Sums(
        loss=sum(float(part.loss) for part in parts),
        wrong=sum(int(part.wrong) for part in parts),
        count=sum(int(part.count) for part in parts),
    )


def evaluate_run(config: ConfigDict, workdir: Path, say: Callable[[str], None] = print) -> Record:
    """Evaluates the newest checkpoint of `workdir` on the whole training and test split.

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
    state = jax.device_put(state)
    record: Record = {"step": int(state.step)}
    for prefix, split in (("train", dataset.train), ("test", dataset.test)):
        arrays = programs.put(split)
        sums = evaluate_split(programs.evaluate, state, arrays, config.eval_batch_size)
        record |= sums.rates(prefix)
    return record
