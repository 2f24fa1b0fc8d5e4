"""Flags of `flaxres.main` that only --mode=train reads."""

from __future__ import annotations

from typing import Any

from absl import flags

ALLOW_DATA_CHANGE = flags.DEFINE_bool(
    "allow_data_change",
    False,
    "With --mode=train: resume although the data have changed, and record the change in data.json.",
)
ALLOW_SCHEDULE_CHANGE = flags.DEFINE_bool(
    "allow_schedule_change",
    False,
    "With --mode=train: resume with a learning-rate schedule that would have given the steps done "
    "so far another learning rate, and record the change in config_changes.jsonl.",
)
RESUME = flags.DEFINE_enum(
    "resume",
    "auto",
    ["auto", "never", "must"],
    "With --mode=train: 'auto' starts or resumes the run, 'never' refuses a workdir that holds a "
    "run, 'must' refuses one without a checkpoint.",
)
QUIET = flags.DEFINE_bool(
    "quiet", False, "With --mode=train: print only errors and the last line, with the results."
)
LOG_SECONDS = flags.DEFINE_float(
    "log_seconds",
    10.0,
    "With --mode=train and without a terminal: smallest time in seconds between two lines of "
    "progress, e.g. 60; 0 prints every record. metrics.jsonl has all records in any case.",
    lower_bound=0.0,
)

TRAIN_FLAGS: tuple[flags.FlagHolder[Any], ...] = (
    *(ALLOW_DATA_CHANGE, ALLOW_SCHEDULE_CHANGE, RESUME, QUIET, LOG_SECONDS),
)


def train_options() -> dict[str, Any]:
    """Returns the values of the flags by name, which are arguments of `train_and_evaluate`."""
    return {flag.name: flag.value for flag in TRAIN_FLAGS}
