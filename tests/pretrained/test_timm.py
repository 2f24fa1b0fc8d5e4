"""State dicts of timm's residual models: logits, parameters and exports of the same models."""

import functools

import jax
import numpy as np
import pytest

from flaxres.config import check_config, default_config, set_model
from flaxres.models import create_model, resnet
from flaxres.models.layer_counts import summarize
from flaxres.pretrained.torch_export import to_state_dict
from flaxres.pretrained.torch_state_dict import convert
from tests.conftest import quick_jit
from tests.pretrained.torchvision_import import import_torchvision, torch

import_torchvision()
timm = pytest.importorskip("timm", reason="pip install timm")
from timm.layers import BlurPool2d, SEModule  # noqa: E402
from timm.models.resnet import BasicBlock, Bottleneck, ResNet  # noqa: E402

from tests.models import torch_models  # noqa: E402

CLASSES = 7
# Options of timm's ResNet, as its models of the same names have them; a SE layer has at least 8
# units there, unless it gets another divisor.
SE16 = {"attn_layer": functools.partial(SEModule, rd_ratio=1 / 16, rd_divisor=1)}
SE4 = {"attn_layer": functools.partial(SEModule, rd_ratio=0.25)}
D = {"stem_width": 32, "stem_type": "deep", "avg_down": True}
VARIANTS = {
    "seresnet-14": (Bottleneck, {"block_args": SE16}),
    "seresnet-10": (BasicBlock, {"block_args": SE16}),
    "resnetd-14": (Bottleneck, D),
    "resnetrs-14": (Bottleneck, {**D, "replace_stem_pool": True, "block_args": SE4}),
    "resnetaa-14": (Bottleneck, {"aa_layer": torch.nn.AvgPool2d}),
    "resnetblur-10": (BasicBlock, {"aa_layer": BlurPool2d}),
}


@pytest.fixture(autouse=True)
def small_depths(monkeypatch):
    """Adds models with one block in each stage."""
    monkeypatch.setitem(resnet.IMAGENET_STAGES["basic"], 10, (1, 1, 1, 1))
    monkeypatch.setitem(resnet.IMAGENET_STAGES["bottleneck"], 14, (1, 1, 1, 1))


def make_ours(name, **fields):
    config = set_model(default_config(), name, "imagenet")
    config.model.update(fields)
    check_config(config)
    return config.model, create_model(config.model, CLASSES)


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_of_one_block_in_each_stage(name):
    block, options = VARIANTS[name]
    torch.manual_seed(0)
    theirs = torch_models.randomize(ResNet(block, (1, 1, 1, 1), num_classes=CLASSES, **options))
    fields = {"block": "bottleneck", "shortcut": "B", "stride_on": "3x3"}
    config, ours = make_ours(name, **(fields if name.endswith("14") else {}))
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    weights = {key: value.numpy() for key, value in theirs.state_dict().items()}
    shapes = jax.eval_shape(functools.partial(ours.init, train=False), jax.random.key(0), images)
    variables = convert(weights, shapes, config)
    logits = quick_jit(functools.partial(ours.apply, train=False))(variables, images)
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
    exported = to_state_dict(variables, config)
    assert exported.keys() == weights.keys()
    for key, value in weights.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(exported[key], value)


@pytest.mark.parametrize(
    ("name", "timm_name"),
    [
        ("seresnet-50", "seresnet50"),
        ("seresnext-50-32x4d", "seresnext50_32x4d"),
        ("resnetd-50", "resnet50d"),
        ("resnetrs-50", "resnetrs50"),
        ("resnetaa-50", "resnetaa50"),
    ],
)
def test_parameters_and_multiply_adds(name, timm_name):
    with torch.device("meta"):
        theirs = timm.create_model(timm_name).eval()
        macs = []

        def count(module, inputs, output):
            del inputs
            macs.append(output[0].numel() // output.shape[1] * module.weight.numel())

        for module in theirs.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(count)
        theirs(torch.zeros(1, 3, 224, 224))
    config = set_model(default_config(), name, "imagenet")
    config.model.stride_on = "3x3"
    layers = summarize(create_model(config.model, 1000), (224, 224, 3))
    assert sum(layer.params for layer in layers) == sum(p.numel() for p in theirs.parameters())
    assert sum(layer.macs for layer in layers) == sum(macs)
