"""Model names and the fields that they stand for."""

import pytest

from flaxres.config import check_config, default_config, model_name, set_model
from flaxres.errors import ConfigError

NAMES = {
    "cifar": [
        *("plain-20", "resnet-56", "resnet-50", "resnet-56-B", "resnet-164-bottleneck"),
        *("resnet-164", "resnet-110-exclusive-gate", "preact-110", "preact-164-basic"),
        *("preact-164", "resnext-29-8x64d", "densenet-40-12", "densenet-bc-100-12"),
        *("vgg-13", "vgg-13-skip", "lenet-5", "stargan-6", "wrn-28-10", "resnet-18", "preact-18-A"),
    ],
    "imagenet": [
        *("plain-34", "resnet-18", "resnet-34-C", "resnet-50", "preact-50", "resnext-50-32x4d"),
        *("densenet-121", "vgg-16", "vgg-13-skip"),
    ],
}


@pytest.mark.parametrize(
    ("stem", "name"), [(stem, name) for stem, names in NAMES.items() for name in names]
)
def test_names_to_fields_and_back(stem, name):
    config = set_model(default_config(), name, stem)
    check_config(config)
    assert model_name(config.model) == name


def test_a_second_name_replaces_all_fields_of_the_first():
    config = set_model(set_model(default_config(), "densenet-bc-100-12"), "resnet-20")
    assert config.to_json() == set_model(default_config(), "resnet-20").to_json()


@pytest.mark.parametrize(
    ("name", "stem", "fields"),
    [
        # He15 (arXiv 1512.03385), table 1 and section 4.2; He16 (arXiv 1603.05027), tables 2 and 4.
        ("resnet-50", "cifar", ("basic", "A", (16, 32, 64), "1x1")),
        ("resnet-18", "cifar", ("basic", "B", (64, 128, 256, 512), "1x1")),
        ("wrn-16-4", "cifar", ("basic", "B", (64, 128, 256), "1x1")),
        ("resnet-50", "imagenet", ("bottleneck", "B", (64, 128, 256, 512), "auto")),
        ("plain-34", "imagenet", ("basic", "none", (64, 128, 256, 512), "1x1")),
        ("preact-164", "cifar", ("bottleneck", "B", (16, 32, 64), "1x1")),
        ("preact-110", "cifar", ("basic", "A", (16, 32, 64), "1x1")),
        ("resnext-29-8x64d", "cifar", ("bottleneck", "B", (64, 128, 256), "3x3")),
    ],
)
def test_fields_of_a_name(name, stem, fields):
    model = set_model(default_config(), name, stem).model
    assert (model.block, model.shortcut, model.widths, model.stride_on) == fields


@pytest.mark.parametrize(
    "name", ["resnext-29", "resnext-29-8x64", "densenet-bc", "vgg-13-skips", "lenet-6", "stargan"]
)
def test_names_without_a_model(name):
    with pytest.raises(
        ConfigError, match=rf"model name must be FAMILY-DEPTH with the options .*, got '{name}'"
    ):
        set_model(default_config(), name)


def test_only_deep_residual_models_on_cifar_have_a_warmup():
    with_warmup = [
        name
        for name in ("plain-110", "resnet-56", "resnet-110", "preact-164", "densenet-bc-190-40")
        if set_model(default_config(), name).warmup.enabled
    ]
    assert with_warmup == ["resnet-110", "preact-164"]
    assert not set_model(default_config(), "resnet-152", "imagenet").warmup.enabled
