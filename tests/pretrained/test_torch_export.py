"""State dicts of exports: loaded by torchvision's own modules, with equal logits."""

import copy

import jax
import numpy as np
import pytest

from flaxres.configs import cifar10
from flaxres.errors import ConfigError
from flaxres.models.activations import network_c_map
from flaxres.pretrained.torch_export import describe_differences, to_state_dict
from flaxres.pretrained.torch_state_dict import convert
from tests.pretrained.test_torchvision import (
    CLASSES,
    VGG_WIDTHS,
    arrays,
    make_ours,
    make_vgg,
    small_depths,  # noqa: F401  (a fixture)
    torchvision,
)
from tests.pretrained.torchvision_import import torch

from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet  # isort: skip

from tests.models import torch_models


def resnet(block):
    return ResNet(block, [1, 1, 1, 1], num_classes=CLASSES)


@pytest.mark.parametrize(
    ("make", "name", "image_size", "fields"),
    [
        (lambda: resnet(BasicBlock), "resnet-18", (33, 49), {"depth": 10}),
        (lambda: resnet(Bottleneck), "resnet-50", (33, 49), {"depth": 14, "stride_on": "3x3"}),
        (
            lambda: torchvision.models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=CLASSES),
            *("densenet-121", (33, 49), {"depth": 21, "growth_rate": 8}),
        ),
        (
            lambda: make_vgg(True, 32, 128),
            *("vgg-11", (32, 128), {"hidden": (16,), "widths": VGG_WIDTHS}),
        ),
    ],
)
def test_torchvision_loads_exports(make, name, image_size, fields):
    torch.manual_seed(0)
    theirs, std = torch_models.randomize(make()), (0.2, 0.3, 0.25)
    config, _, shapes = make_ours(name, image_size, **fields)
    variables = convert(arrays(theirs), shapes, config, image_std=std, image_size=image_size)
    exported = to_state_dict(variables, config, 7, std, image_size)
    loaded = make().eval()
    loaded.load_state_dict({n: torch.from_numpy(a) for n, a in exported.items()}, strict=True)
    images = torch.randn(2, 3, *image_size)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), theirs(images), rtol=1e-4, atol=1e-4)
    again = convert(exported, shapes, config, image_std=std, image_size=image_size)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), again, variables)
    assert describe_differences(config) == []


def test_differences_that_a_state_dict_does_not_show():
    for name, parts in (
        ("resnet-20", ["append channels of zeros"]),
        ("plain-20", ["has no shortcuts"]),
        ("resnet-164-bottleneck-B", ["in conv1; torchvision has it in conv2"]),
        ("resnet-20-scale", ["append channels of zeros", "multiplied by 0.5"]),
        ("vgg-13-skip", ["around the last two convolutions"]),
    ):
        model = copy.deepcopy(cifar10.get_config(name).model)
        model.stride_on = "1x1"
        notes = describe_differences(model)
        assert len(notes) == len(parts)
        assert all(part in note for note, part in zip(notes, parts, strict=True))
    model.norm_epsilon = 1e-3
    assert describe_differences(model)[-1] == "eps of all norms is 0.001, not 1e-05"


def test_activations_that_a_state_dict_does_not_show():
    model = cifar10.get_config("plain-20").model
    for activation, part in (("tanh", "are tanh"), ("tailored-relu", "F.leaky_relu(x, s) with s")):
        model.activation, model.norm = activation, "none"
        assert part in describe_differences(model)[-1]
    slope = float(describe_differences(model)[-1].partition("s = ")[2].partition(",")[0])
    assert network_c_map(slope, 19) == pytest.approx(model.tailored_eta)  # 19 layers


def test_models_without_names_in_pytorch():
    for name in ("preact-20", "lenet-5", "convnext-13"):
        with pytest.raises(ConfigError, match=r"PyTorch names of .* models are unknown"):
            to_state_dict({"params": {}}, cifar10.get_config(name).model)
