"""CPU kernels with bfloat16 images, compared with float64.

Images and kernels hold bfloat16 values, so products are exact, and results are rounded once:
by at most 2^-8 of their value.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.cpu import kernels
from flaxres.models import create_model
from tests.conftest import init

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="needs a C++ compiler")
ROUNDING = 2.0**-8  # largest relative error of rounding to bfloat16
SUMMING = 1e-5  # error of float32 sums, of the largest value
CONVOLUTIONS = [  # height, width, in, out, size, stride, pad
    (8, 8, 16, 32, 3, 1, 1),
    (1, 1, 16, 16, 3, 1, 1),
    (20, 7, 16, 32, 3, 2, 1),
    (33, 34, 32, 16, 3, 2, 1),
    (8, 8, 64, 32, 1, 2, 0),
    (7, 5, 3, 16, 3, 1, 1),
    (12, 15, 3, 64, 7, 2, 3),
    (5, 6, 16, 16, 5, 1, 0),
]


def normal(seed, *shape):
    """Returns normally distributed bfloat16 values."""
    return jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16)


def assert_close(actual, expected, relative, absolute):
    """Checks errors against a part of each value and a part of the largest value."""
    actual = np.asarray(actual.astype(jnp.float32))
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, relative, absolute * np.abs(expected).max())


def convolution(x, kernel, stride, pad, dy):
    """Returns a convolution of float64 arrays, and the gradients of the images and the kernel."""
    size = kernel.shape[0]
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
    windows = windows[:, ::stride, ::stride]
    y = np.einsum("nhwcij,ijco->nhwo", windows, kernel, optimize=True)
    dkernel = np.einsum("nhwcij,nhwo->ijco", windows, dy, optimize=True)
    dx = np.zeros_like(padded)
    height, width = (stride * length for length in y.shape[1:3])
    for i in range(size):
        for j in range(size):
            dx[:, i : i + height : stride, j : j + width : stride] += dy @ kernel[i, j].T
    return y, dx[:, pad : pad + x.shape[1], pad : pad + x.shape[2]], dkernel


@pytest.mark.parametrize("sizes", CONVOLUTIONS, ids=str)
def test_convolution_and_its_gradients(sizes):
    height, width, n_in, n_out, size, stride, pad = sizes
    x, kernel = normal(0, 5, height, width, n_in), normal(1, size, size, n_in, n_out)
    y, vjp = jax.vjp(
        lambda x, kernel: kernels.convolve(x, kernel, stride, pad), x, kernel.astype(jnp.float32)
    )
    dy = normal(2, *y.shape)
    dx, dkernel = vjp(dy)
    assert (y.dtype, dx.dtype, dkernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    x, kernel, dy = (np.float64(array) for array in (x, kernel, dy))
    expected = convolution(x, kernel, stride, pad, dy)
    assert_close(y, expected[0], ROUNDING, SUMMING)
    assert_close(dx, expected[1], ROUNDING, SUMMING)
    assert_close(dkernel, expected[2], 0, SUMMING)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_that_normalizes_its_input(stride):
    """Normalized pixels and the kernel may be rounded too, each by at most `ROUNDING`."""
    x, scale = 3 + normal(0, 7, 6, 9, 16), jnp.linspace(0.5, 1.5, 16)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 16, 32))
    y, mean, variance = kernels.norm_relu_convolve(x, scale, scale, kernel, 0, None, stride, 1)
    x, kernel, scale = (np.float64(array) for array in (x, kernel, scale))
    assert_close(mean, x.mean((0, 1, 2)), 0, SUMMING)
    assert_close(variance, x.var((0, 1, 2)), 0, SUMMING)
    normalized = (x - x.mean((0, 1, 2))) / x.std((0, 1, 2)) * scale + scale
    normalized = np.maximum(normalized, 0)
    zeros = np.zeros(y.shape)
    expected = convolution(normalized, kernel, stride, 1, zeros)[0]
    magnitude = convolution(normalized, np.abs(kernel), stride, 1, zeros)[0]
    error = np.abs(np.float64(y) - expected)
    assert (error <= ROUNDING * (np.abs(expected) + 2.1 * magnitude)).all()


@pytest.mark.parametrize(("relu", "adds"), [(False, False), (True, False), (True, True)])
def test_batch_norm_and_its_gradients(relu, adds):
    x, add = 3 + 2 * normal(0, 9, 4, 3, 32), normal(1, 9, 4, 3, 32) if adds else None
    scale, bias = jnp.linspace(0.5, 1.5, 32), jnp.linspace(-0.2, 0.2, 32)

    def ours(x, scale, bias, add):
        return kernels.batch_norm(x, scale, bias, add, 1e-5, relu, None)[0]

    y, vjp = jax.vjp(ours, x, scale, bias, add)
    dy = normal(2, *y.shape)
    dx, dscale, dbias, dadd = vjp(dy)
    assert (y.dtype, dx.dtype, dscale.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    x, dy, scale, bias = (np.float64(array) for array in (x, dy, scale, bias))
    inverse_std = 1 / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    normalized = (x - x.mean((0, 1, 2))) * inverse_std
    expected = normalized * scale + bias + (np.float64(add) if adds else 0)
    dy = np.where(expected > 0, dy, 0) if relu else dy
    assert_close(y, np.maximum(expected, 0) if relu else expected, ROUNDING, SUMMING)
    assert_close(dbias, dy.sum((0, 1, 2)), 0, SUMMING)
    assert_close(dscale, (dy * normalized).sum((0, 1, 2)), 0, SUMMING)
    mean, projection = dy.mean((0, 1, 2)), (dy * normalized).mean((0, 1, 2))
    expected_dx = scale * inverse_std * (dy - mean - normalized * projection)
    assert_close(dx, expected_dx, ROUNDING, 10 * SUMMING)
    if adds:
        assert_close(dadd, dy, 0, 0)


def test_vmap_over_models():
    x, kernel = normal(0, 2, 3, 6, 6, 16), normal(1, 2, 3, 3, 16, 32).astype(jnp.float32)

    def gradients(x, kernel):
        y, vjp = jax.vjp(lambda *arguments: kernels.convolve(*arguments, 2, 1), x, kernel)
        return y, *vjp(y)

    mapped = jax.vmap(gradients)(x, kernel)
    for i in range(2):
        for actual, expected in zip(mapped, gradients(x[i], kernel[i]), strict=True):
            np.testing.assert_array_equal(actual[i], expected)


def test_results_are_rounded_to_the_nearest_value():
    ulp = 2.0**-7  # distance of bfloat16 values between 1 and 2
    values = [1, 1 + ulp / 2, 1 + 1.5 * ulp, 1 + 0.51 * ulp, 1 + 0.49 * ulp, -1 - ulp / 2, 3.4e38]
    values += [np.inf, -np.inf, np.nan, -np.nan, 0, -0.0, 1e-30, 2 - ulp / 8, -5.2e-20]
    bias = jnp.array(values, jnp.float32)
    ones, zeros = jnp.ones(16), jnp.zeros(16)
    x = jnp.zeros((1, 1, 1, 16), jnp.bfloat16)
    y = kernels.normalize(x, ones, bias, zeros, ones, None, 0.0, False)
    np.testing.assert_array_equal(np.float32(y.ravel()), np.float32(bias.astype(jnp.bfloat16)))


def test_kernels_of_a_model_are_not_rounded(config):
    """A bfloat16 model uses the kernels. Its gradients of float32 parameters are not rounded."""
    config.model.widths = (16, 32, 32)
    model = create_model(config.model, 10, "bfloat16")
    x = jax.random.normal(jax.random.key(0), (8, 8, 8, 3))
    variables = init(model, x)

    def loss(params):
        logits, _ = model.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
        return jax.nn.log_softmax(logits)[:, 0].mean()

    gradient = jax.jit(jax.grad(loss)).lower(variables["params"])
    text = gradient.as_text()
    assert "stablehlo.convolution" not in text
    assert "flaxres_kernel_gradient_bfloat16" in text
    assert "_float32" not in text
    for leaf in jax.tree.leaves(gradient.compile()(variables["params"])):
        assert leaf.dtype == jnp.float32
        assert (leaf != leaf.astype(jnp.bfloat16)).any()
