"""Residual units and sizes of the StarGAN classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.errors import ConfigError
from flaxres.models.layers import Layers, make_conv
from flaxres.models.norms import InstanceNorm
from flaxres.models.stargan import ResidualUnit, StarGan
from tests.conftest import init


def test_a_unit_by_hand():
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 4, 4, 3)))
    unit = ResidualUnit(Layers(make_conv(), InstanceNorm))
    y, variables = unit.init_with_output(jax.random.key(1), x)

    def conv(x, params):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        kernel = np.asarray(params["kernel"])
        return sum(
            padded[:, i : i + 4, j : j + 4] @ kernel[i, j] for i in range(3) for j in range(3)
        )

    def norm(x):
        return (x - x.mean((1, 2), keepdims=True)) / np.sqrt(
            x.var((1, 2), keepdims=True) + InstanceNorm.epsilon
        )

    params = variables["params"]
    inner = norm(conv(np.maximum(norm(conv(x, params["conv1"])), 0), params["conv2"]))
    np.testing.assert_allclose(y, x + inner, rtol=1e-3, atol=1e-4)
    assert (y < 0).any()  # no ReLU after the addition


def test_units_and_images_that_are_too_small():
    model = StarGan(depth=6, widths=(4, 8, 8), norm="instance", num_classes=3)
    params = init(model, jnp.zeros((1, 16, 16, 3)))["params"]
    assert [name for name in params if name.startswith("unit")] == [f"unit{i}" for i in range(1, 7)]
    with pytest.raises(ConfigError, match="a feature map of 1 x 1 pixels has no variance"):
        init(model, jnp.zeros((1, 4, 4, 3)))
