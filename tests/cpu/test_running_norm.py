"""Convolutions of norms with running statistics, compared with XLA's operations."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from flaxres.cpu import kernels
from flaxres.cpu.running_norm import norm_relu_conv_general_dilated
from tests.cpu.test_kernels import assert_close, normal, values_and_gradients

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="needs a C++ compiler")


@pytest.mark.parametrize("filters", [32, 10])  # 10 are not a multiple of the vector length
def test_convolution_of_a_norm_with_running_statistics(filters):
    x, kernel = 3 + normal(0, 4, 6, 5, 16), normal(1, 3, 3, 16, filters)
    norm = [1 + 0.1 * normal(i, 16) ** 2 for i in range(4)]
    window = ((1, 1), ((1, 1), (1, 1)))

    def ours(x, kernel, *norm):
        options = {"dimension_numbers": kernels.NHWC}
        return norm_relu_conv_general_dilated(norm, 1e-5, x, kernel, *window, **options)

    def theirs(x, kernel, scale, bias, mean, var):
        y = jnp.maximum((x - mean) / jnp.sqrt(var + 1e-5) * scale + bias, 0)
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(y, kernel, *window, dimension_numbers=numbers)

    assert_close(*values_and_gradients((jax.jit(ours), theirs), x, kernel, *norm), 1e-5)
