"""Checks of the config fields of optimizers and learning-rate schedules, also against each other.

A field that the chosen optimizer or schedule does not read must have its default, so that no value
is silently without effect. `boundaries` is the exception: its default is a schedule of the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from flaxres.config_types import COOLDOWN_SHAPES, OPTIMIZERS, SCHEDULES, WEIGHT_DECAY_ON
from flaxres.field_checks import MAX_DECAY, FieldChecker

MIN_EPSILON = 1e-30  # smaller numbers may be 0 in float32, and 0 / 0 is NaN

# Fields that only some optimizers read, with these optimizers.
OPTIMIZER_FIELDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("momentum", "nesterov"), ("sgd", "lars")),
    **dict.fromkeys(("adam.beta1", "adam.beta2", "adam.epsilon"), ("adamw", "lamb")),
    "trust_ratio.coefficient": ("lars",),
    "trust_ratio.parameters": ("lars", "lamb"),
}
# Fields that only some schedules read, with these schedules.
SCHEDULE_FIELDS: dict[str, tuple[str, ...]] = {
    "final_learning_rate": tuple(s for s in SCHEDULES if s != "piecewise-constant"),
    "polynomial_power": ("polynomial",),
    **dict.fromkeys(("cooldown_steps", "cooldown_shape"), ("wsd",)),
    **dict.fromkeys(("one_cycle.rise_fraction", "one_cycle.initial_factor"), ("one-cycle",)),
}


def check_optimizer(config: ConfigDict, flat: Mapping[str, Any], fields: FieldChecker) -> None:
    """Checks the fields of the optimizer.

    Args:
      config: the config.
      flat: its fields by dotted name.
      fields: checker of these fields.

    Raises:
      ConfigError: a field has a value that is not allowed.
    """
    fields.require_one_of("optimizer", OPTIMIZERS)
    fields.require_one_of("trust_ratio.parameters", WEIGHT_DECAY_ON)
    fields.require(0 <= config.momentum < 1, "momentum", "at least 0 and below 1")
    for field in ("adam.beta1", "adam.beta2"):
        fields.require(0 <= flat[field] <= MAX_DECAY, field, f"from 0 to {MAX_DECAY}")
    is_positive = flat["adam.epsilon"] >= MIN_EPSILON
    fields.require(is_positive, "adam.epsilon", f"at least {MIN_EPSILON}")
    is_positive = flat["trust_ratio.coefficient"] > 0
    fields.require(is_positive, "trust_ratio.coefficient", "above 0")
    fields.require(config.clip_norm >= 0, "clip_norm", "0 or more")
    is_factor = 0 < config.layer_decay <= 1
    fields.require(is_factor, "layer_decay", "above 0 and at most 1")
    _require_defaults("optimizer", OPTIMIZER_FIELDS, config.optimizer, fields)
    has_momentum = config.momentum > 0 or not config.nesterov
    fields.require(has_momentum, "nesterov", "False if momentum is 0")


def check_schedule(config: ConfigDict, flat: Mapping[str, Any], fields: FieldChecker) -> None:
    """Checks the fields of the learning-rate schedule.

    Args:
      config: the config.
      flat: its fields by dotted name.
      fields: checker of these fields.

    Raises:
      ConfigError: a field has a value that is not allowed.
    """
    fields.require_one_of("schedule", SCHEDULES)
    fields.require_one_of("cooldown_shape", COOLDOWN_SHAPES)
    _require_defaults("schedule", SCHEDULE_FIELDS, config.schedule, fields)
    is_in_range = 0 <= config.final_learning_rate <= config.learning_rate
    rule = f"from 0 to learning_rate ({config.learning_rate})"
    fields.require(is_in_range, "final_learning_rate", rule)
    fields.require(config.polynomial_power > 0, "polynomial_power", "above 0")
    is_fraction = 0 < flat["one_cycle.rise_fraction"] < 1
    fields.require(is_fraction, "one_cycle.rise_fraction", "above 0 and below 1")
    is_factor = 0 < flat["one_cycle.initial_factor"] <= 1
    fields.require(is_factor, "one_cycle.initial_factor", "above 0 and at most 1")
    is_one_cycle = config.schedule == "one-cycle"
    rule = "0 with schedule one-cycle, which begins with a rise of its own"
    has_no_warmup = config.linear_warmup_steps == 0 or not is_one_cycle
    fields.require(has_no_warmup, "linear_warmup_steps", rule)
    has_no_warmup = not (config.warmup.enabled and is_one_cycle)
    fields.require(has_no_warmup, "warmup.enabled", rule.replace("0", "False", 1))
    if config.schedule == "wsd":
        most = config.num_steps - config.linear_warmup_steps
        rule = f"from 1 to the {most} steps after the warm-up with schedule wsd"
        fields.require(1 <= config.cooldown_steps <= most, "cooldown_steps", rule)


def _require_defaults(
    choice: str, readers: Mapping[str, Sequence[str]], chosen: str, fields: FieldChecker
) -> None:
    """Checks that fields which the chosen optimizer or schedule does not read have their defaults.

    Args:
      choice: the field that chooses, 'optimizer' or 'schedule'.
      readers: optimizers or schedules that read a field, for fields that only some of them read.
      chosen: value of the field `choice`.
      fields: checker of these fields.
    """
    for field, names in readers.items():
        fields.require_default(field, chosen in names, f"{choice} is {' or '.join(names)}")
