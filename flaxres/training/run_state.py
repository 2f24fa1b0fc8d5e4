"""State of a run on disk: whether it is finished, and whether its metrics fit its checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

from ml_collections import ConfigDict

from flaxres.config import flatten
from flaxres.errors import CheckpointError, WorkdirError
from flaxres.run.checkpoint import Checkpoints
from flaxres.run.checkpoint_files import CHECKPOINTS_DIRECTORY, checkpoint_steps, is_complete
from flaxres.run.failed_start import max_steps_without_checkpoint
from flaxres.run.input_spec import read_input_spec
from flaxres.run.records import Record, last_record, record_blocks
from flaxres.training.restore import train_state_shapes


def check_checkpoints_not_removed(workdir: Path) -> None:
    """Checks that a run with metrics has its directory of checkpoints, which is made before them.

    Raises:
      WorkdirError: the directory was removed, so training would start over and discard the metrics.
    """
    record = last_record(workdir)
    if record is not None and not os.path.lexists(workdir / CHECKPOINTS_DIRECTORY):
        raise _no_checkpoint_error(workdir, int(record["step"]))


def _no_checkpoint_error(workdir: Path, step: int) -> WorkdirError:
    return WorkdirError(
        f"workdir {workdir} has metrics up to step {step:,} but no checkpoint. Choose another "
        "--workdir, or remove this one to start over."
    )


def finished_record(config: ConfigDict, workdir: Path) -> Record | None:
    """Returns the last record of a finished run, or None if the run is not finished.

    A run is finished if its metrics reach the evaluation after the last step, and all files of the
    checkpoint of this step are there. The arrays are not read.
    """
    try:
        steps = checkpoint_steps(workdir)
    except CheckpointError:  # training the run reports it
        return None
    if steps[-1:] != [config.num_steps] or not is_complete(workdir, config.num_steps):
        return None
    return last_step_record(config, workdir)


def last_step_record(config: ConfigDict, workdir: Path) -> Record | None:
    """Returns the record of the evaluation after the last step; None if it is not there.

    A run that was shortened to the step of its newest checkpoint lacks it.
    """
    record = last_record(workdir)
    if record is None or record["step"] != config.num_steps:
        return None
    return record if "test_error" in record else None


def is_final_checkpoint_valid(config: ConfigDict, workdir: Path) -> bool:
    """Returns True if the last checkpoint of a run can be restored."""
    input_spec = read_input_spec(workdir, config)
    template = train_state_shapes(config, input_spec.image_shape, input_spec.num_classes)
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.is_valid(config.num_steps, template)


def check_metrics(config: ConfigDict, workdir: Path, step: int | None) -> None:
    """Checks that metrics.jsonl and the newest checkpoint belong to the same training.

    Args:
      config: config of the run.
      workdir: directory of the run, or of one of its replicas.
      step: step of the newest checkpoint; None if there is none.

    Raises:
      WorkdirError: the record before the checkpoint is missing, so resuming would leave a gap; or
        there is no checkpoint but so many records that one must have existed, so starting over
        would discard them; or a line is damaged.
    """
    # The record of the last step is written again if it is missing (`last_step_record`).
    periods = (config.log_every, config.eval_every)
    expected = max((step or 0) // period * period for period in periods)
    is_found, last_step = not expected, 0
    for records in record_blocks(workdir):
        last_step = int(records[-1]["step"])
        is_found = is_found or any(record["step"] == expected for record in records)
    if step is None:
        if last_step > max_steps_without_checkpoint(flatten(config)):
            raise _no_checkpoint_error(workdir, last_step)
    elif not is_found:
        raise WorkdirError(
            f"workdir {workdir} has a checkpoint of step {step:,}, but its metrics.jsonl lacks "
            f"step {expected:,}. Restore the file, or choose another --workdir."
        )
