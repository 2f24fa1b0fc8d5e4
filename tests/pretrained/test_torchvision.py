"""State dicts of torchvision's own modules: logits with random weights and batch statistics."""

import functools

import jax
import numpy as np
import pytest

from flaxres.config import default_config, set_model
from flaxres.errors import WeightsError
from flaxres.models import create_model, densenet, resnet
from flaxres.pretrained.torch_state_dict import convert
from tests.conftest import quick_jit
from tests.pretrained.torchvision_import import import_torchvision, torch

torchvision = import_torchvision()
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet  # noqa: E402

from tests.models import torch_models  # noqa: E402

CLASSES = 7


@pytest.fixture(autouse=True)
def small_depths(monkeypatch):
    """Adds models of the ImageNet families with one block in each stage."""
    monkeypatch.setitem(resnet.IMAGENET_STAGES["basic"], 10, (1, 1, 1, 1))
    monkeypatch.setitem(resnet.IMAGENET_STAGES["bottleneck"], 14, (1, 1, 1, 1))
    monkeypatch.setitem(densenet.IMAGENET_STAGES, 21, (2, 2, 2, 2))


VGG_WIDTHS = (8, 16, 16, 16, 16)


def make_vgg(with_norm, height, width):
    """Returns torchvision's VGG-11 with few filters, without its pooling to 7 x 7."""
    first, second, *others = VGG_WIDTHS
    layers = [first, "M", second, "M", *(x for width in others for x in (width, width, "M"))]
    features = torchvision.models.vgg.make_layers(layers, batch_norm=with_norm)
    model = torchvision.models.VGG(features, num_classes=CLASSES, init_weights=False)
    model.avgpool = torch.nn.Identity()
    inputs = VGG_WIDTHS[-1] * (height // 32) * (width // 32)
    model.classifier = torch.nn.Sequential(
        *(torch.nn.Linear(inputs, 16), torch.nn.ReLU(), torch.nn.Dropout()),
        torch.nn.Linear(16, CLASSES),
    )
    return model


def arrays(theirs):
    return {key: value.detach().numpy() for key, value in theirs.state_dict().items()}


def make_ours(name, image_size, **fields):
    """Returns config, model and shapes of the variables of a model of the ImageNet families."""
    config = set_model(default_config(), name, "imagenet").model
    config.update(fields)
    model = create_model(config, CLASSES)
    images = np.zeros((1, *image_size, 3), np.float32)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    return config, model, shapes


def relative_error(theirs, name, image_size=(33, 49), **fields):
    """Returns the largest error of our logits, relative to the largest logit."""
    config, model, shapes = make_ours(name, image_size, **fields)
    images = np.random.default_rng(0).normal(size=(2, *image_size, 3)).astype(np.float32)
    theirs = torch_models.randomize(theirs)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    variables = convert(arrays(theirs), shapes, config, image_size=image_size)
    logits = quick_jit(functools.partial(model.apply, train=False))(variables, images)
    return np.abs(logits - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({}, {}),
        ({"width_per_group": 128}, {"group_width": 128}),  # wide_resnet50_2
        ({"groups": 4, "width_per_group": 8}, {"groups": 4, "group_width": 8}),  # ResNeXt
    ],
)
def test_bottlenecks(options, fields):
    torch.manual_seed(0)
    theirs = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=CLASSES, **options)
    name = "resnext-50-32x4d" if "groups" in fields else "resnet-50"
    fields = {"depth": 14, **fields}
    assert relative_error(theirs, name, stride_on="3x3", **fields) < 1e-4
    if not options:
        assert relative_error(theirs, name, stride_on="1x1", **fields) > 0.05


def test_basic_blocks_dense_layers_and_vgg():
    torch.manual_seed(0)
    theirs = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)
    assert relative_error(theirs, "resnet-18", depth=10) < 1e-4
    theirs = torchvision.models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=CLASSES)
    assert relative_error(theirs, "densenet-121", depth=21, growth_rate=8) < 1e-4
    for norm, image_size in (("batch", (32, 128)), ("none", (64, 32))):
        theirs = make_vgg(norm == "batch", *image_size)
        fields = {"hidden": (16,), "norm": norm, "widths": VGG_WIDTHS}
        assert relative_error(theirs, "vgg-11", image_size, **fields) < 1e-4


def test_vgg_of_another_image_size():
    config, _, shapes = make_ours("vgg-11", (96, 96), hidden=(16,), widths=VGG_WIDTHS)
    weights = arrays(make_vgg(True, 64, 64))
    message = r"classifier\.0\.weight has shape .* depends on the size of the images .*=224\)$"
    with pytest.raises(WeightsError, match=message):
        convert(weights, shapes, config, image_size=(96, 96))
