"""Blocks, compared with convolutions and norms written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.models.blocks import BasicBlock
from flaxres.models.layers import Layers, make_conv
from flaxres.models.norms import NoNorm, make_norm
from flaxres.models.shortcuts import Shortcut
from tests.conftest import cifar_model, init

CONV = make_conv()


def center_kernels(params):
    """Returns kernels that copy channel i of the center pixel to channel i."""

    def center(kernel):
        values = np.zeros(kernel.shape, np.float32)
        values[1, 1] = np.eye(*kernel.shape[2:])
        return jnp.asarray(values)

    return jax.tree.map(center, params)


@pytest.mark.parametrize("size", [8, 9])
def test_branch_and_shortcut_of_a_strided_block_read_the_same_pixels(size):
    block = BasicBlock(filters=2, stride=2, shortcut=Shortcut("none"), layers=Layers(CONV, NoNorm))
    impulses = jnp.zeros((size * size, size, size, 2))
    for i in range(size * size):
        impulses = impulses.at[i, i // size, i % size, 0].set(1.0)
    variables = {"params": center_kernels(block.init(jax.random.key(0), impulses)["params"])}
    response = block.apply(variables, impulses)
    np.testing.assert_array_equal(response, impulses[:, ::2, ::2])
    residual = BasicBlock(filters=2, stride=2, shortcut=Shortcut("A"), layers=Layers(CONV, NoNorm))
    np.testing.assert_array_equal(residual.apply(variables, impulses), 2 * impulses[:, ::2, ::2])


def test_a_basic_block_by_hand():
    """ReLU(norm(conv(ReLU(norm(conv(x))))) + x), with a convolution written as loops."""
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 4, 4, 3)))
    norm = make_norm("batch", train=True, dtype=jnp.float32, momentum=0.9, epsilon=1e-5)
    block = BasicBlock(filters=3, shortcut=Shortcut("A"), layers=Layers(CONV, norm))
    variables = block.init(jax.random.key(1), x)
    y, _ = block.apply(variables, x, mutable=["batch_stats"])

    def conv(x, kernel):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        out = np.zeros((*x.shape[:3], kernel.shape[-1]))
        for row in range(3):
            for column in range(3):
                out += padded[:, row : row + 4, column : column + 4] @ kernel[row, column]
        return out

    def batch_norm(x):
        return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)

    kernels = [np.asarray(variables["params"][name]["kernel"]) for name in ("conv1", "conv2")]
    hidden = np.maximum(batch_norm(conv(x, kernels[0])), 0)
    expected = np.maximum(batch_norm(conv(hidden, kernels[1])) + x, 0)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("pre_activation", [False, True])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_zero_init_leaves_only_the_shortcut(block, pre_activation, norm):
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    depth = 8 if block == "basic" else 11
    model = cifar_model(
        depth,
        "A",
        zero_init=True,
        block=block,
        pre_activation=pre_activation,
        norm=norm,
        widths=(8, 8, 16),
    )
    variables = init(model, images)
    if pre_activation:
        last = "conv2" if block == "basic" else "conv3"  # no norm follows it
        for stage in (1, 2, 3):
            assert not variables["params"][f"stage{stage}_block1"][last]["kernel"].any()
        return
    logits = model.apply(variables, images, train=False)
    # A block only subsamples pixels and pads channels, as option A does.
    params = variables["params"]
    x = CONV(8, 3, use_bias=norm == "none").apply({"params": params["conv"]}, images)
    constructor = make_norm(norm, train=False, dtype=jnp.float32, momentum=0.9, epsilon=1e-5)
    norm_variables = {
        name: collection["norm"] for name, collection in variables.items() if "norm" in collection
    }
    x = jax.nn.relu(constructor().apply(norm_variables, x))
    features = x[:, ::4, ::4].mean((1, 2))
    kernel = params["dense"]["kernel"]
    expected = features @ kernel[: features.shape[-1]] + params["dense"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
