"""Layer-wise learning rates against timm, and groups of layers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.config import default_config, set_model
from flaxres.models import create_model
from flaxres.training.fine_tuning import update_params
from flaxres.training.layer_decay import layer_groups, layer_order, learning_rate_factors
from tests.pretrained.torchvision_import import import_torchvision


def parameters(name, stem="cifar", size=32):
    """Returns a model, its config and the shapes of its parameters."""
    config = set_model(default_config(), name, stem)
    model = create_model(config.model, 10)
    images = jax.ShapeDtypeStruct((2, size, size, 3), np.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    return model, config, variables["params"]


def factors(name, stem="cifar", size=32):
    model, config, params = parameters(name, stem, size)
    config.layer_decay = 0.5
    return learning_rate_factors(model, config, params, (size, size, 3))


def test_factors_match_timm():
    pytest.importorskip("torch")
    import_torchvision()
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    torch_model = timm.create_model("resnet18", num_classes=10)
    names = {id(p): name for name, p in torch_model.named_parameters()}
    expected = {}
    for group in param_groups_layer_decay(torch_model, layer_decay=0.5):
        for parameter in group["params"]:
            name = names[id(parameter)]
            if name.startswith("layer"):
                stage, block = int(name[5]), int(name[7]) + 1
                expected[f"stage{stage}_block{block}"] = group["lr_scale"]
            else:
                layer = {"conv1": "conv", "bn1": "norm", "fc": "dense"}[name.partition(".")[0]]
                expected[layer] = group["lr_scale"]
    assert factors("resnet-18", "imagenet", 64) == expected
    assert expected["conv"] == 0.5**9


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("resnet-8", [["conv", "norm"], ["stage1_block1"], ["stage2_block1"], ["stage3_block1"]]),
        (
            "preact-8",
            [["conv"], ["stage1_block1"], ["stage2_block1"], ["stage3_block1", "last_norm"]],
        ),
        ("lenet-5", [["conv1"], ["conv2"], ["hidden1"], ["hidden2"]]),
        (
            "densenet-7-4",
            [
                *(["conv"], ["stage1_layer1"], ["transition1"], ["stage2_layer1"]),
                *(["transition2"], ["stage3_layer1", "last_norm"]),
            ],
        ),
        (
            "stargan-1",
            [["conv1", "norm1", "conv2", "norm2", "conv3", "norm3"], ["unit1"]],
        ),
    ],
)
def test_groups_of_layers(name, groups):
    model, _, params = parameters(name)
    assert layer_groups(layer_order(model, (32, 32, 3)), params) == groups


def test_every_convolution_of_a_vgg_is_a_group():
    values = factors("vgg-11")
    assert values["dense"] == 1
    assert values["stage1_conv1"] == values["stage1_norm1"] == min(values.values())
    convolutions = [layer for layer in values if "conv" in layer or "hidden" in layer]
    assert sorted(values[layer] for layer in convolutions) == [
        0.5**k for k in range(len(convolutions), 0, -1)
    ]


def test_nothing_is_traced_without_decay():
    model, config, params = parameters("resnet-8")
    assert learning_rate_factors(model, config, params, (0, 0, 0)) == {}


def test_factors_multiply_the_learning_rate_of_the_backbone():
    config = default_config()
    config.transfer.backbone_learning_rate_scale = 0.1
    config.transfer.frozen = ("conv",)
    params = {name: {"kernel": np.ones(1, np.float32)} for name in ("conv", "block", "dense")}
    after = update_params(config, params, params, jnp.float32(0.5), {"conv": 0.25, "block": 0.5})
    actual = [float(after[name]["kernel"][0]) for name in ("conv", "block", "dense")]
    np.testing.assert_allclose(actual, [1.0, 1 - 0.5 * 0.1 * 0.5, 0.5], rtol=1e-6)
