import pytest

from flaxres.config import check_config
from flaxres.errors import ConfigError
from tests.conftest import small_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset.placement": "disk"}, "dataset.placement must be one of auto, device, stream"),
        ({"dataset.mean": "gray"}, "dataset.mean must be one of pixel, channel"),
        ({"dataset.broken_images": "mend"}, "must be one of fail, skip"),
        ({"dataset.decode": "fast"}, "must be one of exact, scaled"),
        ({"augment.crop": "zoom"}, "augment.crop must be one of pad, scale, random-resized"),
        ({"dataset.workers": -2}, "dataset.workers must be 0 or more, or -1 for one per core"),
        ({"dataset.prefetch": 0}, "dataset.prefetch must be at least 1"),
        ({"dataset.mean_images": 0}, "dataset.mean_images must be at least 1"),
        ({"dataset.device_gib": -1.0}, "dataset.device_gib must be 0 or more"),
        ({"dataset.eval_short_side": 32}, r"at least image_size \(0\), which must not be 0"),
        (
            {"dataset.eval_short_side": 8, "dataset.image_size": 16},
            r"at least image_size \(16\), which",
        ),
        ({"augment.crop": "random-resized"}, "dataset.image_size must be the size of the crops"),
        (
            {"augment.crop": "scale", "dataset.image_size": 16, "dataset.placement": "device"},
            "dataset.placement must be auto or stream for augment.crop='scale', got 'device'",
        ),
        (
            {"augment.crop": "scale", "dataset.image_size": 300},
            "augment.short_side_range must be two rising numbers of pixels from 300 to 65,535",
        ),
        (
            {"augment.short_side_range": (300, 200)},
            "augment.short_side_range must be two rising numbers",
        ),
        ({"augment.area_range": (0.1, 1.5)}, "augment.area_range must be two rising fractions"),
        (
            {"augment.aspect_ratio_range": (2.0, 1.0)},
            "augment.aspect_ratio_range must be two rising ratios",
        ),
        ({"num_replicas": 2, "dataset.placement": "stream"}, "if num_replicas is above 1"),
    ],
)
def test_values_that_are_not_allowed_are_named(changes, message):
    config = small_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message):
        check_config(config)


def test_allowed_combinations_of_fields():
    config = small_config()
    config.dataset.image_size, config.augment.crop = 224, "scale"
    config.dataset.eval_short_side = 256
    check_config(config)
    config.augment.crop, config.augment.short_side_range = "random-resized", (100, 120)
    check_config(config)
