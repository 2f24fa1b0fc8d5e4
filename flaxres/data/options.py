"""Checks of the fields of `config.dataset` and `config.augment`, and of their combinations."""

from __future__ import annotations

from collections.abc import Sequence

from ml_collections import ConfigDict

from flaxres.data.decode import MAX_SIDE
from flaxres.field_checks import FieldChecker

PLACEMENTS = ("auto", "device", "stream")
CROPS = ("pad", "scale", "random-resized")
MEANS = ("pixel", "channel")
BROKEN_IMAGES = ("fail", "skip")
DECODE = ("exact", "scaled")


def crops_on_host(config: ConfigDict) -> bool:
    """Returns True if random crops are made where images are decoded, not on the device."""
    return config.augment.crop != "pad"


def check_data_fields(config: ConfigDict, fields: FieldChecker) -> None:
    """Checks how an experiment reads and crops images.

    Args:
      config: the experiment.
      fields: checker of its fields.

    Raises:
      ConfigError: a field has a value that is not allowed.
    """
    data, crop, image_size = config.dataset, config.augment.crop, config.dataset.image_size

    require = fields.require
    fields.require_one_of("dataset.placement", PLACEMENTS)
    fields.require_one_of("dataset.mean", MEANS)
    fields.require_one_of("dataset.broken_images", BROKEN_IMAGES)
    fields.require_one_of("dataset.decode", DECODE)
    fields.require_one_of("augment.crop", CROPS)
    for field in ("dataset.image_size", "dataset.eval_short_side", "augment.pad"):
        value = (data if field.startswith("dataset") else config.augment)[field.split(".")[1]]
        require(0 <= value <= MAX_SIDE, field, f"from 0 to {MAX_SIDE:,} pixels")
    require(data.workers >= -1, "dataset.workers", "0 or more, or -1 for one per core")
    require(data.prefetch >= 1, "dataset.prefetch", "at least 1")
    require(data.mean_images >= 1, "dataset.mean_images", "at least 1")
    require(data.device_gib >= 0, "dataset.device_gib", "0 or more")
    require(data.stream_gib > 0, "dataset.stream_gib", "above 0")
    require(
        data.eval_short_side == 0 or 0 < image_size <= data.eval_short_side,
        "dataset.eval_short_side",
        f"0, or at least image_size ({image_size}), which must not be 0",
    )
    if data.placement == "stream":
        require(
            config.num_replicas == 1,
            "dataset.placement",
            "device or auto if num_replicas is above 1",
        )
    if crops_on_host(config):
        require(
            data.placement != "device",
            "dataset.placement",
            f"auto or stream for augment.crop={crop!r}",
        )
        require(
            image_size > 0, "dataset.image_size", f"the size of the crops for augment.crop={crop!r}"
        )
        require(config.num_replicas == 1, "augment.crop", "pad if num_replicas is above 1")
    _check_crop_ranges(config, fields)


def _check_crop_ranges(config: ConfigDict, fields: FieldChecker) -> None:
    augment = config.augment
    min_short_side = max(1, config.dataset.image_size) if augment.crop == "scale" else 1
    fields.require(
        is_rising_pair(augment.short_side_range, min_short_side)
        and augment.short_side_range[1] <= MAX_SIDE,
        "augment.short_side_range",
        f"two rising numbers of pixels from {min_short_side:,} to {MAX_SIDE:,}",
    )
    fields.require(
        is_rising_pair(augment.area_range) and augment.area_range[1] <= 1,
        "augment.area_range",
        "two rising fractions of the image's area, at most 1",
    )
    fields.require(
        is_rising_pair(augment.aspect_ratio_range),
        "augment.aspect_ratio_range",
        "two rising ratios of width to height",
    )


def is_rising_pair(values: Sequence[float], minimum: float = 0) -> bool:
    """Returns True for two positive numbers, at least `minimum`, the first not above the second."""
    if len(values) != 2:
        return False
    low, high = values
    return 0 < low <= high and low >= minimum
