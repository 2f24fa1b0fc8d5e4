"""Comparison of a training command with its workdir: empty, its own run, or one to extend."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Literal

from ml_collections import ConfigDict

from flaxres.config import flatten
from flaxres.errors import WorkdirError, counted
from flaxres.parallel.replicas import seeds
from flaxres.run.checkpoint_files import checkpoint_steps
from flaxres.run.config_changes import ConfigChange, read_config_changes
from flaxres.run.failed_start import is_failed_start
from flaxres.run.records import last_record
from flaxres.run.workdir import (
    CONFIG_FILE,
    METRICS_FILE,
    check_same_config,
    describe_differences,
    differing_fields,
    read_config,
    read_run_config,
)
from flaxres.training.schedule_changes import SCHEDULE_FIELDS, first_changed_step

Resume = Literal["auto", "never", "must"]
RESUME: tuple[Resume, ...] = ("auto", "never", "must")


@dataclasses.dataclass(frozen=True)
class RunStart:
    """Start of a training command in its workdir.

    Attributes:
      has_run: True if the workdir holds the run of this config, possibly with `change`.
      is_failed: True if the workdir holds a run without any checkpoint (`is_failed_start`).
      change: fields of the config that change when the run resumes; None if none do.
    """

    has_run: bool
    is_failed: bool = False
    change: ConfigChange | None = None

    @property
    def replaces(self) -> bool:
        """True if the run in the workdir has another config and is to be replaced."""
        return self.is_failed and not self.has_run


def find_run_start(
    workdir: Path,
    config: ConfigDict,
    resume: Resume = "auto",
    allow_schedule_change: bool = False,
) -> RunStart:
    """Compares a training command with its workdir, without changing anything.

    The config of a run with a checkpoint may differ in `SCHEDULE_FIELDS`. If it would have given
    the steps done another learning rate, `allow_schedule_change` is needed. A run without a
    checkpoint (`is_failed_start`) may be replaced by a run of any config.

    Args:
      workdir: directory of the run; need not exist.
      config: the checked config of the command, in steps.
      resume: 'auto' starts or resumes, 'never' refuses a workdir that holds a checkpoint or
        records, 'must' refuses one without a checkpoint.
      allow_schedule_change: if True, the learning rate of steps that are done may differ.

    Raises:
      ConfigError: a directory of this name cannot hold a run.
      CheckpointError: the directory of the checkpoints cannot be read.
      WorkdirError: the workdir cannot be read, holds a run of another config, or is refused by
        `resume`.
    """
    _check_resume(workdir, resume)
    if not (workdir / CONFIG_FILE).exists():
        has_run = check_same_config(workdir, config)
        _check_replicas_are_free(workdir, config)
        return RunStart(has_run)
    stored, given = read_config(workdir), flatten(config)
    fields = differing_fields(stored, given)
    is_failed = is_failed_start(workdir)
    if not fields or is_failed:
        has_run = not fields
        check_same_config(workdir, config, accepted=fields)
        if not has_run:
            _check_replicas_are_free(workdir, config, read_run_config(workdir))
        return RunStart(has_run, is_failed)
    steps = checkpoint_steps(workdir)
    if not steps:
        return RunStart(check_same_config(workdir, config))
    if not set(fields) <= set(SCHEDULE_FIELDS):  # the error names only fields that cannot change
        return RunStart(check_same_config(workdir, config, accepted=SCHEDULE_FIELDS))
    step = steps[-1]
    differences = describe_differences(stored, given, fields)
    if config.num_steps < step:
        raise WorkdirError(
            f"workdir {workdir} has a checkpoint of step {step:,}, so num_steps must be at least "
            f"{step}, got {config.num_steps}; choose another --workdir for a shorter run"
        )
    changed_step = first_changed_step(read_run_config(workdir), config, step)
    if changed_step is not None and not allow_schedule_change:
        raise WorkdirError(
            f"workdir {workdir} holds a run of another config: {differences}. This changes the "
            f"learning rate of its {counted(step, 'step')} from step {changed_step:,} on; choose "
            "another --workdir, or resume with the new schedule with --allow_schedule_change"
        )
    if changed_step is not None and config.num_steps == step:
        raise WorkdirError(
            f"workdir {workdir} holds a run of another config: {differences}. All of its {step:,} "
            "steps are done, so a larger num_steps is needed to train with another learning rate"
        )
    # Once earlier steps differ from the stored config, they also differ from a later one.
    agree_so_far = all(change.same_learning_rates for change in read_config_changes(workdir))
    old, new = ({field: values[field] for field in fields} for values in (stored, given))
    agree = agree_so_far and changed_step is None
    return RunStart(True, change=ConfigChange(step, old, new, agree))


def replica_change(workdir: Path, replica: Path, config: ConfigDict) -> ConfigChange | None:
    """Returns the config change of a run that a replica has not stored yet, or None.

    A command that was killed while it stored a change has not stored it for all replicas.

    Args:
      workdir: directory of the run, whose config is stored already.
      replica: directory of the replica; need not exist. For the workdir itself, the result is None.
      config: config of the replica.

    Raises:
      DamagedFileError: a config cannot be read.
    """
    if replica == workdir or not (replica / CONFIG_FILE).exists():
        return None
    stored, given = read_config(replica), flatten(config)
    fields = differing_fields(stored, given)
    if not fields or not set(fields) <= set(SCHEDULE_FIELDS):
        return None
    agree = all(change.same_learning_rates for change in read_config_changes(workdir))
    old, new = ({field: values[field] for field in fields} for values in (stored, given))
    return ConfigChange(max(checkpoint_steps(workdir), default=0), old, new, agree)


def _check_replicas_are_free(
    workdir: Path, config: ConfigDict, former: ConfigDict | None = None
) -> None:
    """Checks that the directories of new replicas hold no runs.

    Only directories that exist are looked at, because `num_replicas` may be very large.

    Args:
      workdir: directory of the run.
      config: config of the run.
      former: config of the run that it replaces, whose replicas may be there.

    Raises:
      WorkdirError: one does.
    """
    if config.num_replicas == 1:
        return
    has_replicas = former is not None and former.num_replicas > 1
    former_seeds = seeds(former) if has_replicas else range(0)
    for replica in sorted(workdir.glob("seed-*")):
        number = replica.name.removeprefix("seed-")
        if not (number.isdecimal() and str(int(number)) == number):
            continue
        if int(number) not in seeds(config) or int(number) in former_seeds:
            continue
        if any(os.path.lexists(replica / name) for name in (CONFIG_FILE, METRICS_FILE)):
            raise WorkdirError(
                f"{replica} holds another run, so it cannot hold a replica; choose another "
                "--workdir, or num_replicas=1"
            )


def _check_resume(workdir: Path, resume: Resume) -> None:
    """Checks that a workdir holds what --resume requires.

    Raises:
      WorkdirError: it does not.
    """
    if resume == "auto":
        return
    steps = checkpoint_steps(workdir)
    if resume == "must" and not steps:
        raise WorkdirError(
            f"workdir {workdir} holds no checkpoint to resume from; check --workdir, or start a "
            "run with --resume=auto"
        )
    record = last_record(workdir)
    if resume == "never" and (steps or record):
        step = max(steps[-1] if steps else 0, int(record["step"]) if record else 0)
        raise WorkdirError(
            f"workdir {workdir} holds a run of {counted(step, 'step')}, which --resume=never does "
            "not continue; choose another --workdir, or resume with --resume=auto"
        )
