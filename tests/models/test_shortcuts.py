"""Shortcut options, compared with NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.errors import ConfigError
from flaxres.models.layers import Layers, make_conv
from flaxres.models.norms import NoNorm
from flaxres.models.shortcuts import Shortcut, add_and_relu, apply_shortcut, pad_shortcut
from tests.conftest import cifar_model


def test_option_a_against_a_hand_built_array():
    x = np.arange(2 * 4 * 4 * 2, dtype=np.float32).reshape(2, 4, 4, 2)
    expected = np.zeros((2, 2, 2, 5), np.float32)
    for image in range(2):
        for row in range(2):
            for column in range(2):
                for channel in range(2):
                    value = x[image, 2 * row, 2 * column, channel]
                    expected[image, row, column, channel] = value
    np.testing.assert_array_equal(pad_shortcut(jnp.asarray(x), 5, 2), expected)


def test_option_a_at_odd_sizes():
    x = jnp.arange(25.0).reshape(1, 5, 5, 1)
    np.testing.assert_array_equal(
        pad_shortcut(x, 1, 2)[0, :, :, 0], [[0, 2, 4], [10, 12, 14], [20, 22, 24]]
    )


def test_option_a_cannot_reduce_channels():
    with pytest.raises(ConfigError, match="not reduce 4 to 3; use option B or C"):
        pad_shortcut(jnp.zeros((1, 2, 2, 4)), 3, 1)


LAYERS = Layers(make_conv(), NoNorm)


class ShortcutModule(nn.Module):
    option: str
    filters: int
    stride: int

    @nn.compact
    def __call__(self, x):
        options = {"filters": self.filters, "stride": self.stride, "layers": LAYERS}
        return apply_shortcut(Shortcut(self.option), x, **options)


@pytest.mark.parametrize(
    ("option", "filters", "stride", "projects"),
    [
        ("A", 3, 1, False),
        ("A", 6, 2, False),
        ("B", 3, 1, False),
        ("B", 6, 2, True),
        ("B", 6, 1, True),
        ("C", 3, 1, True),
        ("C", 6, 2, True),
    ],
)
def test_where_each_option_has_a_projection(option, filters, stride, projects):
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    y, variables = ShortcutModule(option, filters, stride).init_with_output(jax.random.key(1), x)
    assert y.shape == (2, 8 // stride, 8 // stride, filters)
    assert bool(variables) == projects
    if projects:
        kernel = variables["params"]["shortcut"]["conv"]["kernel"]
        assert kernel.shape == (1, 1, 3, filters)
        by_hand = np.asarray(x)[:, ::stride, ::stride] @ np.asarray(kernel)[0, 0]
        np.testing.assert_allclose(y, by_hand, rtol=1e-5, atol=1e-5)
    elif stride == 1:
        np.testing.assert_array_equal(x, y)


def test_unknown_option():
    with pytest.raises(ValueError, match=r"must be one of A, B, C, none, .*, got 'D'"):
        ShortcutModule("D", 3, 1).init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))


class BlockEnd(nn.Module):
    shortcut: Shortcut

    @nn.compact
    def __call__(self, x, y):
        return add_and_relu(self.shortcut, x, NoNorm(), y, stride=1, layers=LAYERS)


def test_the_shortcuts_of_he16_by_hand():
    x, y = (np.asarray(jax.random.normal(jax.random.key(i), (2, 4, 4, 3))) for i in (0, 1))

    def block_end(option, **fields):
        return BlockEnd(Shortcut(option, **fields)).init_with_output(jax.random.key(2), x, y)

    np.testing.assert_allclose(block_end("A")[0], np.maximum(x + y, 0))
    np.testing.assert_allclose(block_end("scale", scale=0.25)[0], np.maximum(0.25 * x + y, 0))
    np.testing.assert_allclose(block_end("dropout")[0], np.maximum(x + y, 0))  # inactive by default
    for option in ("exclusive-gate", "shortcut-gate"):
        output, variables = block_end(option, gate_bias=-1.5)
        gate = variables["params"]["gate"]
        np.testing.assert_array_equal(gate["bias"], [-1.5] * 3)
        g = 1 / (1 + np.exp(-(x @ np.asarray(gate["kernel"])[0, 0] - 1.5)))
        branch = g * y if option == "exclusive-gate" else y
        np.testing.assert_allclose(output, np.maximum((1 - g) * x + branch, 0), rtol=1e-5)


def test_dropout_scales_the_values_that_it_keeps():
    x = jnp.ones((50, 4, 4, 8))
    shortcut = Shortcut("dropout", dropout_rate=0.25, apply_dropout=True)
    key = {"dropout": jax.random.key(0)}
    y = np.asarray(BlockEnd(shortcut).apply({}, x, jnp.zeros_like(x), rngs=key))
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    # The fraction of zeros in 6,400 draws of probability 0.25 has a standard deviation of 0.0054.
    assert abs((y == 0).mean() - 0.25) < 0.02


def test_weighted_and_concatenated_shortcuts_by_hand():
    x, y = (np.asarray(jax.random.normal(jax.random.key(i), (2, 4, 4, 3))) for i in (0, 1))
    module = BlockEnd(Shortcut("weighted"))
    output, variables = module.init_with_output(jax.random.key(2), x, y)
    np.testing.assert_allclose(output, np.maximum(x + y, 0))  # both weights are 1 at first
    assert set(variables["params"]) == {"shortcut_weight", "branch_weight"}
    weights = {
        "shortcut_weight": {"scale": jnp.array([0.5])},
        "branch_weight": {"scale": jnp.array([-2.0])},
    }
    output = module.apply({"params": weights}, x, y)
    np.testing.assert_allclose(output, np.maximum(0.5 * x - 2 * y, 0), rtol=1e-6)

    output, variables = BlockEnd(Shortcut("concat")).init_with_output(jax.random.key(2), x, y)
    kernel = np.asarray(variables["params"]["merge"]["kernel"])[0, 0]
    assert kernel.shape == (6, 3)
    expected = np.maximum(x @ kernel[:3] + y @ kernel[3:], 0)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shortcut", ["weighted", "concat"])
def test_learned_combinations_fit_the_widths_of_all_stages(shortcut):
    images = jnp.zeros((1, 8, 8, 3))
    widths = (8, 16, 8) if shortcut == "concat" else (8, 8, 16)
    model = cifar_model(8, shortcut, widths=widths)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=True))["params"]
    block = params["stage2_block1"]
    if shortcut == "concat":
        assert block["merge"]["kernel"].shape == (1, 1, 24, 16)
        assert "merge_norm" in block
    else:
        assert block["shortcut_weight"]["scale"].shape == (1,)
