"""Layers, transitions and depths of DenseNet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.models.densenet import DenseLayer, DenseNet, Transition, stages_of_depth
from flaxres.models.layers import Layers, make_conv
from flaxres.models.norms import NoNorm
from tests.conftest import init

LAYERS = Layers(make_conv(), NoNorm)
X = np.asarray(jax.random.normal(jax.random.key(0), (2, 4, 4, 6)))


def conv1x1(x, params):
    return x @ np.asarray(params["kernel"])[0, 0]


def test_a_layer_appends_its_feature_maps_to_its_input():
    layer = DenseLayer(growth_rate=3, bottleneck=True, layers=LAYERS)
    y, variables = layer.init_with_output(jax.random.key(1), X)
    assert y.shape == (2, 4, 4, 9)
    np.testing.assert_array_equal(y[..., :6], X)
    params = variables["params"]
    assert params["conv1"]["kernel"].shape == (1, 1, 6, 12)
    hidden = np.maximum(conv1x1(np.maximum(X, 0), params["conv1"]), 0)
    padded = np.pad(hidden, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = np.asarray(params["conv2"]["kernel"])
    appended = sum(
        padded[:, i : i + 4, j : j + 4] @ kernel[i, j] for i in range(3) for j in range(3)
    )
    np.testing.assert_allclose(y[..., 6:], appended, rtol=1e-4, atol=1e-5)


def test_a_transition_by_hand():
    y, variables = Transition(filters=3, layers=LAYERS).init_with_output(jax.random.key(1), X)
    mixed = conv1x1(np.maximum(X, 0), variables["params"]["conv"])
    means = mixed.reshape(2, 2, 2, 2, 2, 3).mean((2, 4))
    np.testing.assert_allclose(y, means, rtol=1e-4, atol=1e-5)


def test_channels_grow_and_are_compressed():
    model = DenseNet(
        stages=(2, 3), growth_rate=4, compression=0.5, block="bottleneck", num_classes=10
    )
    params = init(model, jnp.zeros((2, 8, 8, 3)))["params"]
    # 2*4 channels, plus 2 layers of 4; half of these 16, plus 3 layers of 4.
    assert params["transition1"]["conv"]["kernel"].shape == (1, 1, 16, 8)
    assert params["stage2_layer3"]["norm1"]["scale"].shape == (16,)
    assert params["last_norm"]["scale"].shape == (20,)
    assert params["dense"]["kernel"].shape == (20, 10)


def test_stages_of_depth():
    assert stages_of_depth(40, "basic", "cifar") == (12, 12, 12)
    assert stages_of_depth(100, "bottleneck", "cifar") == (16, 16, 16)
    assert stages_of_depth(169, "bottleneck", "imagenet") == (6, 12, 32, 32)
    with pytest.raises(ValueError, match=r"depth must be 6n\+4 .*, got 101"):
        stages_of_depth(101, "bottleneck", "cifar")
    with pytest.raises(ValueError, match=r"depth must be 121, 169, 201, 264 .*, got 120"):
        stages_of_depth(120, "bottleneck", "imagenet")
