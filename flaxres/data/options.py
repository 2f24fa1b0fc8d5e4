"""Which fields of `config.dataset` and `config.augment` go together."""

from __future__ import annotations

from ml_collections import ConfigDict

from flaxres.field_checks import FieldChecker

PLACEMENTS = ("auto", "device", "stream")
CROPS = ("pad", "scale", "random-resized")
MEANS = ("pixel", "channel")
BROKEN_IMAGES = ("fail", "skip")


def crops_on_host(config: ConfigDict) -> bool:
    """Whether the random crops are of larger images, and so made where images are decoded."""
    return config.augment.crop != "pad"


def check_data_fields(config: ConfigDict, fields: FieldChecker) -> None:
    """Checks the fields that say how images are read and cropped.

    Args:
      config: the experiment.
      fields: checker of its fields.

    Raises:
      ConfigError: a field has a value that is not allowed.
    """
    data, options = config.dataset, config.augment

    need = fields.require
    fields.require_one_of("dataset.placement", PLACEMENTS)
    fields.require_one_of("dataset.mean", MEANS)
    fields.require_one_of("dataset.broken_images", BROKEN_IMAGES)
    fields.require_one_of("augment.crop", CROPS)
    need(data.workers >= -1, "dataset.workers", "0 or more, or -1 for one on each core")
    need(data.prefetch >= 1, "dataset.prefetch", "at least 1")
    need(data.mean_images >= 1, "dataset.mean_images", "at least 1")
    need(data.device_gib >= 0, "dataset.device_gib", "0 or more")
    short = data.eval_short_side
    need(short >= 0, "dataset.eval_short_side", "0 or more")
    ok = short == 0 or 0 < data.image_size <= short
    need(ok, "dataset.eval_short_side", f"0, or at least image_size ({data.image_size}, not 0)")
    if data.placement == "stream":
        ok = config.num_replicas == 1
        need(ok, "dataset.placement", "device or auto where num_replicas is above 1")
    if crops_on_host(config):
        crop = options.crop
        need(data.placement != "device", "dataset.placement", f"auto or stream for crop {crop!r}")
        need(data.image_size > 0, "dataset.image_size", f"the size of the crops for crop {crop!r}")
        need(config.num_replicas == 1, "augment.crop", "pad where num_replicas is above 1")
    least = max(1, data.image_size if options.crop == "scale" else 1)
    ok = _rising(options.short_side_range, least) and all(
        type(n) is int for n in options.short_side_range
    )
    need(ok, "augment.short_side_range", f"two rising numbers of pixels, from {least} on")
    ok = _rising(options.area_range) and options.area_range[1] <= 1
    need(ok, "augment.area_range", "two rising parts of the image's area, up to 1")
    need(
        _rising(options.aspect_ratio_range),
        "augment.aspect_ratio_range",
        "two rising ratios of width to height",
    )


def _rising(pair: tuple, least: float = 0) -> bool:
    """Whether there are two numbers, above 0 and not below `least`, that do not fall."""
    if len(pair) != 2 or not all(isinstance(n, int | float) for n in pair):
        return False
    low, high = pair
    return 0 < low <= high and low >= least
