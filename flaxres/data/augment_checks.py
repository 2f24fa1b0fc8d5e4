"""Checks of the augmentation recipes in `config.augment`: policies, erasing, mixup and CutMix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from flaxres.data.image_operations import GRAY_OR_RGB
from flaxres.data.options import is_rising_pair
from flaxres.data.policies import MAX_MAGNITUDE, POLICIES
from flaxres.errors import ConfigError, counted
from flaxres.field_checks import FieldChecker

MIN_ALPHA = 1e-6  # jax.random.beta returns NaN for alpha near the smallest float32
MAX_OPERATIONS = 20  # each one of an image is compiled by itself
RANDAUGMENT_FIELDS = (
    *("policy_operations", "policy_magnitude", "policy_magnitude_std", "policy_probability"),
)
PROBABILITIES = (
    *("augment.policy_probability", "augment.erasing_probability"),
    *("augment.cutmix_probability", "augment.mixing_probability"),
)


def check_augment_fields(flat: Mapping[str, Any], fields: FieldChecker) -> None:
    """Checks policies, erasing, mixup and CutMix.

    Args:
      flat: fields of the experiment by dotted name.
      fields: checker of these fields.

    Raises:
      ConfigError: a field has a value that is not allowed.
    """
    fields.require_one_of("augment.policy", ("none", *POLICIES))
    for field in PROBABILITIES:
        fields.require(0 <= flat[field] <= 1, field, "a probability from 0 to 1")
    for field, low, high in (
        ("augment.policy_operations", 1, MAX_OPERATIONS),
        ("augment.policy_magnitude", 0, MAX_MAGNITUDE),
        ("augment.policy_magnitude_std", 0, MAX_MAGNITUDE),
        ("augment.policy_fill", 0, 255),
    ):
        fields.require(low <= flat[field] <= high, field, f"from {low} to {high}")
    area, ratio = "augment.erasing_area", "augment.erasing_aspect_ratio"
    is_area = is_rising_pair(flat[area]) and flat[area][1] <= 1
    fields.require(is_area, area, "two rising fractions of the image's area, at most 1")
    fields.require(is_rising_pair(flat[ratio]), ratio, "two rising ratios of height to width")
    fields.require(flat["augment.cutout"] >= 0, "augment.cutout", "0 or more pixels")
    for field in ("augment.mixup", "augment.cutmix"):
        is_alpha = flat[field] == 0 or flat[field] >= MIN_ALPHA
        fields.require(is_alpha, field, f"0, or at least {MIN_ALPHA}")
        has_partners = flat[field] == 0 or flat["batch_size"] > 1
        fields.require(has_partners, field, "0 if batch_size is 1; an image has no partner")
    _check_readers(flat, fields)


def _check_readers(flat: Mapping[str, Any], fields: FieldChecker) -> None:
    """Checks that fields which the recipes do not read have their defaults."""
    policy, is_erasing = flat["augment.policy"], flat["augment.erasing_probability"] > 0
    is_on = [flat[f"augment.{field}"] > 0 for field in ("mixup", "cutmix")]
    for is_read, condition, names in (
        (policy == "randaugment", "augment.policy is randaugment", RANDAUGMENT_FIELDS),
        (policy != "none", "augment.policy is set", ("policy_fill",)),
        (
            is_erasing,
            "augment.erasing_probability is above 0",
            ("erasing_area", "erasing_aspect_ratio"),
        ),
        (all(is_on), "augment.mixup and augment.cutmix are above 0", ("cutmix_probability",)),
        (any(is_on), "augment.mixup or augment.cutmix is above 0", ("mixing_probability",)),
    ):
        for name in names:
            fields.require_default(f"augment.{name}", is_read, condition)


def check_policy_channels(options: ConfigDict, channels: int) -> None:
    """Checks that a policy is used only for gray and RGB images.

    Args:
      options: `config.augment`.
      channels: channels of an image.

    Raises:
      ConfigError: `policy` is not 'none', and the images have another number of channels.
    """
    if options.policy != "none" and channels not in GRAY_OR_RGB:
        raise ConfigError(
            f"augment.policy must be none for images that are neither gray nor RGB, got "
            f"{options.policy!r} with {counted(channels, 'channel')}"
        )
