"""Checks of config fields: types, choices and ranges. `flaxres.config.check_config` runs all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from flaxres.config_types import WEIGHT_DECAY_ON
from flaxres.data.augment_checks import check_augment_fields
from flaxres.data.options import check_data_fields
from flaxres.field_checks import FieldChecker
from flaxres.models.nearest import check_model
from flaxres.models.norms import BN_SCOPES, NORMS
from flaxres.models.shortcuts import PADDED_SHORTCUTS
from flaxres.optimizer_checks import check_optimizer, check_schedule
from flaxres.recipe_checks import check_recipe

DTYPES = ("float32", "bfloat16")
LOSSES = ("cross-entropy", "binary-cross-entropy")
PARALLELISMS = ("jit", "pmap")
METRIC_WRITERS = ("tensorboard", "wandb", "mlflow")
SHORTCUT_PADDINGS = ("both-sides", "end")

MAX_STEPS = MAX_SEED = 2**31 - 1  # steps and seeds are int32 in the train state
MAX_BOUNDARIES = 1_000

# Numbers of steps; counts that only memory limits (`flaxres.memory_estimate`).
STEP_COUNTS = (
    *("num_steps", "log_every", "eval_every", "checkpoint_every"),
    *("warmup.window", "warmup.max_steps"),
)
COUNTS = ("batch_size", "eval_batch_size", "keep_checkpoints", "num_replicas")


def check_values(config: ConfigDict, flat: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Checks the values of fields that have the right types, also against each other.

    Args:
      config: the config.
      flat: its fields by dotted name.
      defaults: fields of the default config by dotted name.

    Raises:
      ConfigError: a field has a value that is not allowed.
    """
    fields = FieldChecker(flat, defaults)
    _check_choices(config, fields)
    check_model(config.model)
    _check_ranges(flat, fields)
    check_data_fields(config, fields)
    _check_warmup(config, fields)
    check_optimizer(config, flat, fields)
    check_schedule(config, flat, fields)
    _check_loss(config, fields)
    _check_color(flat, fields)
    check_augment_fields(flat, fields)
    _check_transfer(config, flat, fields)
    _check_boundaries(flat["boundaries"], fields)
    check_recipe(config, flat, fields)


def _check_choices(config: ConfigDict, fields: FieldChecker) -> None:
    fields.require_one_of("dtype", DTYPES)
    fields.require_one_of("weight_decay_on", WEIGHT_DECAY_ON)
    fields.require_one_of("loss", LOSSES)
    fields.require_one_of("parallelism", PARALLELISMS)
    fields.require_one_of("bn_scope", BN_SCOPES)
    for name in config.metric_writers:
        rule = "a tuple of names, such as \"('tensorboard','wandb')\""
        fields.require("," not in name, "metric_writers", rule)
        FieldChecker({"metric_writers": name}).require_one_of("metric_writers", METRIC_WRITERS)
    if config.num_replicas != 1:
        is_jit = config.parallelism == "jit"
        fields.require(is_jit, "parallelism", "jit if num_replicas is above 1")
        logs_no_layers = config.log_layers_every == 0
        fields.require(logs_no_layers, "log_layers_every", "0 if num_replicas is above 1")
    fields.require_one_of("model.norm", NORMS)


def _check_ranges(flat: Mapping[str, Any], fields: FieldChecker) -> None:
    for field in (*STEP_COUNTS, *COUNTS):
        fields.require(flat[field] >= 1, field, "at least 1")
    for field in (
        *("steps_per_dispatch", "num_devices", "augment.pad", "weight_decay"),
        *("dataset.image_size", "log_layers_every", "augment.color", "linear_warmup_steps"),
    ):
        fields.require(flat[field] >= 0, field, "0 or more")
    for field in (*STEP_COUNTS, "log_layers_every", "steps_per_dispatch", "keep_checkpoints"):
        fields.require(flat[field] <= MAX_STEPS, field, "at most 2**31 - 1")
    for field in ("seed", "num_replicas"):
        rule = "from 0 to 2**31 - 1" if field == "seed" else "small enough for seeds below 2**31"
        last_seed = flat["seed"] + (flat["num_replicas"] - 1 if field == "num_replicas" else 0)
        fields.require(0 <= last_seed <= MAX_SEED, field, rule)
    for field in (
        *("learning_rate", "decay_factor", "warmup.learning_rate"),
        *("model.norm_epsilon", "model.init_gain", "transfer.backbone_learning_rate_scale"),
        "scalar_learning_rate_scale",
    ):
        fields.require(flat[field] > 0, field, "above 0")
    for field in ("model.norm_momentum", "label_smoothing"):
        fields.require(0 <= flat[field] < 1, field, "at least 0 and below 1")
    is_percentage = 0 < flat["warmup.train_error"] < 100
    fields.require(is_percentage, "warmup.train_error", "a percentage between 0 and 100")
    for field in ("name", "dataset.name", "dataset.train_split", "dataset.test_split"):
        fields.require(bool(flat[field].strip()), field, "text that is not empty")
    is_path = flat["init_from"] is None or bool(flat["init_from"].strip())
    fields.require(is_path, "init_from", "a file or a run directory, or None")


def _check_warmup(config: ConfigDict, fields: FieldChecker) -> None:
    field, steps = "linear_warmup_steps", config.linear_warmup_steps
    fields.require(steps < config.num_steps, field, f"below num_steps ({config.num_steps})")
    has_one_warmup = steps == 0 or not config.warmup.enabled
    fields.require(has_one_warmup, field, "0 if warmup.enabled is True; a run has one warm-up")


def _check_loss(config: ConfigDict, fields: FieldChecker) -> None:
    field, threshold = "loss_threshold", config.loss_threshold
    fields.require(0 <= threshold < 1, field, "at least 0 and below 1")
    is_read = config.loss == "binary-cross-entropy"
    fields.require_default(field, is_read, "loss is binary-cross-entropy")


def _check_color(flat: Mapping[str, Any], fields: FieldChecker) -> None:
    for field, count in (("augment.color_eigenvalues", 3), ("augment.color_eigenvectors", 9)):
        fields.require(len(flat[field]) == count, field, f"{count} numbers")


def _check_transfer(config: ConfigDict, flat: Mapping[str, Any], fields: FieldChecker) -> None:
    is_pretrained = config.init_from is not None
    allowed = is_pretrained or not config.transfer.new_head
    fields.require(allowed, "transfer.new_head", "False without pretrained weights (--init_from)")
    rule = "names of stages and layers, such as ('conv', 'norm', 'stage1')"
    fields.require(all(flat["transfer.frozen"]), "transfer.frozen", rule)
    image_std = flat["transfer.image_std"]
    are_positive = all(value > 0 for value in image_std)
    rule = "numbers above 0, such as (0.229, 0.224, 0.225)"
    fields.require(are_positive, "transfer.image_std", rule)
    allowed = is_pretrained or not image_std
    fields.require(allowed, "transfer.image_std", "() without pretrained weights (--init_from)")
    if config.transfer.shortcut_padding is not None:
        field = "transfer.shortcut_padding"
        fields.require_one_of(field, SHORTCUT_PADDINGS)
        fields.require(is_pretrained, field, "None without pretrained weights (--init_from)")
        is_padded = config.model.shortcut in PADDED_SHORTCUTS
        rule = "None for a model without zero-padded shortcuts (option A)"
        fields.require(is_padded, field, rule)


def _check_boundaries(boundaries: Sequence[int], fields: FieldChecker) -> None:
    is_short = len(boundaries) <= MAX_BOUNDARIES
    fields.require(is_short, "boundaries", f"at most {MAX_BOUNDARIES:,} numbers of steps")
    are_steps = all(0 < boundary <= MAX_STEPS for boundary in boundaries)
    are_rising = are_steps and all(a < b for a, b in itertools.pairwise(boundaries))
    fields.require(are_rising, "boundaries", "rising numbers of steps")
