import pytest

from flaxres.config import check_config, default_config
from flaxres.data.augment_checks import check_policy_channels
from flaxres.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"policy": "randaugmnt"},
            "augment.policy must be one of none, randaugment, .*randaugment",
        ),
        ({"policy_operations": 0}, "augment.policy_operations must be from 1 to 20, got 0"),
        ({"policy_magnitude": 31.0}, "augment.policy_magnitude must be from 0 to 30, got 31"),
        ({"policy_magnitude_std": -1.0}, "augment.policy_magnitude_std must be from 0 to 30"),
        ({"policy_fill": 256}, "augment.policy_fill must be from 0 to 255, got 256"),
        ({"policy_probability": 1.5}, "augment.policy_probability must be a probability"),
        ({"erasing_probability": -0.1}, "augment.erasing_probability must be a probability"),
        ({"erasing_area": (0.3, 0.1)}, "augment.erasing_area must be two rising fractions"),
        ({"erasing_aspect_ratio": (0.0, 1.0)}, "augment.erasing_aspect_ratio must be two rising"),
        ({"cutout": -1}, "augment.cutout must be 0 or more pixels, got -1"),
        ({"mixup": -0.1}, "augment.mixup must be 0, or at least 1e-06, got -0.1"),
        ({"cutmix": 1e-38}, "augment.cutmix must be 0, or at least 1e-06, got 1e-38"),
        ({"erasing_area": (0.1, 0.2)}, r"must be \(0.02, 0.33\) .*erasing_probability is above"),
        ({"cutmix_probability": 2.0}, "augment.cutmix_probability must be a probability"),
        (
            {"policy": "trivial-augment", "policy_magnitude": 5.0},
            "unless augment.policy is randaug",
        ),
        ({"policy_fill": 128}, r"augment.policy_fill must be 0 \(its default\) unless"),
        ({"mixup": 1.0, "cutmix_probability": 0.3}, "unless augment.mixup and augment.cutmix are"),
        ({"mixing_probability": 0.3}, "unless augment.mixup or augment.cutmix is above 0, got 0.3"),
        ({"mixing_probability": 2.0}, "augment.mixing_probability must be a probability"),
    ],
)
def test_invalid_values(changes, message):
    config = default_config()
    config.augment.update(changes)
    with pytest.raises(ConfigError, match=message):
        check_config(config)


def test_a_single_image_has_no_partner():
    config = default_config()
    config.batch_size, config.augment.cutmix = 1, 1.0
    with pytest.raises(ConfigError, match=r"augment.cutmix must be 0 if batch_size is 1"):
        check_config(config)


def test_policies_need_gray_or_rgb_images():
    options = default_config().augment
    check_policy_channels(options, 4)
    options.policy = "randaugment"
    check_policy_channels(options, 1)
    with pytest.raises(ConfigError, match=r"neither gray nor RGB, got 'randaugment' with 4 ch"):
        check_policy_channels(options, 4)
