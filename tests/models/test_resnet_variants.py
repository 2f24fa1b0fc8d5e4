"""Names and checks of variants of residual models."""

import pytest

from flaxres.config import check_config, default_config, set_model
from flaxres.errors import ConfigError
from flaxres.models.names import model_name


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        *((name, "imagenet") for name in ("seresnet-50", "seresnext-50-32x4d", "resnetd-50")),
        *((name, "imagenet") for name in ("resnetrs-50", "resnetaa-50", "resnetblur-18")),
        *((name, "cifar") for name in ("seresnet-20", "seresnet-20-B", "sepreact-110")),
    ],
)
def test_a_name_is_read_back(name, stem):
    config = set_model(default_config(), name, stem)
    check_config(config)
    assert model_name(config.model) == name


@pytest.mark.parametrize(
    ("name", "stem", "fields", "message"),
    [
        ("resnetd-50", "cifar", {}, "deep_stem must be false without the ImageNet stem"),
        ("resnet-50", "imagenet", {"stem_pool": "conv"}, "max without model.deep_stem"),
        ("resnet-20", "cifar", {"pool_projections": True}, "false without projections"),
        ("resnet-50", "imagenet", {"anti_alias": "blur"}, "none unless model.stride_on is 3x3"),
        ("resnet-20", "cifar", {"se_reduction": -1}, "a positive quotient of channels, or 0"),
        ("resnetd-50", "imagenet", {"widths": (15, 32, 64, 128)}, "even in the first stage"),
        ("vgg-13", "cifar", {"se_reduction": 16}, "is not a field of vgg models"),
    ],
)
def test_refused_fields(name, stem, fields, message):
    config = set_model(default_config(), name, stem)
    config.model.update(fields)
    with pytest.raises(ConfigError, match=message):
        check_config(config)
