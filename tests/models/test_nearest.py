"""Suggestions for models that do not exist."""

import pytest

from flaxres.config import check_config, default_config, set_model
from flaxres.errors import ConfigError
from flaxres.models.nearest import exists, model_hint, nearest_models
from flaxres.models.registry import FAMILIES, STEMS

NEAREST = {
    "cifar": {
        "resnet-21": ["resnet-20", "resnet-26"],
        "resnet-17": ["resnet-14", "resnet-18"],
        "wide-resnet-28-10": ["wrn-28-10"],
        "wrn-27-10": ["wrn-22-10", "wrn-28-10"],
        "wrn-28-0": ["wrn-28-4"],
        "resnetv2-50": ["preact-50"],
        "resnet-1": ["resnet-8"],
        "ResNet_56": ["resnet-56"],
        "resent-56-b": ["resnet-56-B"],
        "r\u00e9snet-20": ["resnet-20"],
        "rsenet-21": ["resnet-20", "resnet-26"],
        "resnet-50-bottleneck": ["resnet-50"],
        "preact-163": ["preact-158", "preact-164"],
        "preactresnet18": ["preact-18"],
        "resnext29": ["resnext-29-8x64d"],
        "resnext-29-16x64": ["resnext-29-16x64d"],
        "densenet-41-24": ["densenet-40-24", "densenet-43-24"],
        "densenet-bc-100": ["densenet-bc-100-12"],
        "vgg-12": ["vgg-11", "vgg-13"],
        "vgg13_bn": ["vgg-13"],
        "plain-20-A": ["plain-20"],
        "lenet": ["lenet-5"],
        "lenet-6": ["lenet-5"],
        "stargan-0": ["stargan-1"],
        "resnet": ["resnet-56"],
        "efficientnet-b0": [],
        "alexnet": [],
        "": [],
        "resnet-" + "9" * 5000: [],
    },
    "imagenet": {
        "resnet-26": ["resnet-18", "resnet-34"],
        "resnet-200": ["resnet-152"],
        "resnet-20": ["resnet-18", "resnet-34"],
        "resnet": ["resnet-50"],
        "resnet50d": ["resnetd-50"],
        "repvgg-B1": ["repvgg-b1"],
        "convnext_base": ["convnext-base"],
        "resnext50_32x4d": ["resnext-50-32x4d"],
        "densenet120": ["densenet-121"],
        "vgg-12": ["vgg-11", "vgg-13"],
    },
}


@pytest.mark.parametrize("stem", STEMS)
def test_nearest_models(stem):
    for name, expected in NEAREST[stem].items():
        assert nearest_models(name, stem) == expected, name
        for other in expected:
            check_config(set_model(default_config(), other, stem))


@pytest.mark.parametrize(
    ("name", "stem", "hint"),
    [
        (
            "resnet-101",
            "cifar",
            "; resnet-101 needs an ImageNet config, such as configs/imagenet.py",
        ),
        ("resnet-200", "imagenet", "; resnet-200 needs a config for small images, such as configs"),
        ("preact-200", "imagenet", "; preact-200 needs a config for small images"),
        ("repvgg-A0", "cifar", "; repvgg-a0 needs an ImageNet config"),
        ("resnet-21", "cifar", "; did you mean 'resnet-20' or 'resnet-26'?"),
    ],
)
def test_hints_name_the_config_that_has_the_model(name, stem, hint):
    assert model_hint(name, stem).startswith(hint)


def test_fields_that_only_another_config_has_name_it():
    message = r"deep_stem must .*; resnetd-18 needs an ImageNet config"
    with pytest.raises(ConfigError, match=message):
        check_config(set_model(default_config(), "resnetd-18", "cifar"))


def test_messages_of_wrong_depths():
    with pytest.raises(ConfigError, match="depth must be 18, 34 with basic blocks or 50, 101, 152"):
        check_config(set_model(default_config(), "resnet-26", "imagenet"))


def test_every_form_of_names_has_examples_that_exist():
    forms = [form for family in FAMILIES.values() for form in family.name_forms]
    assert {"resnet", "densenet-bc", "lenet"} <= {form.start for form in forms}
    for form in forms:
        assert all(exists(name, "cifar") or exists(name, "imagenet") for name in form.examples)
