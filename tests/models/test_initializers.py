"""Delta-orthogonal and Dirac kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.errors import ConfigError
from flaxres.models.initializers import dirac_kernel, make_kernel_init
from flaxres.models.layers import make_conv


@pytest.mark.parametrize(("channels", "filters", "size"), [(8, 8, 3), (3, 16, 3), (3, 8, 7)])
def test_delta_orthogonal_kernels(channels, filters, size):
    init = make_kernel_init("delta-orthogonal", squared_gain=2.0)
    kernel = np.asarray(init(jax.random.key(0), (size, size, channels, filters)))
    center = kernel[size // 2, size // 2]
    np.testing.assert_allclose(np.linalg.svd(center, compute_uv=False), 2**0.5, rtol=1e-5)
    assert np.count_nonzero(kernel) == np.count_nonzero(center)


def test_linear_layers_preserve_norms_and_gradients():
    """Four layers that double the channels twice."""
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 4))
    conv = make_conv()
    init = make_kernel_init("delta-orthogonal", squared_gain=1.0)
    y, pullbacks = x, []
    for i, filters in enumerate([4, 8, 16, 16]):
        layer = conv(filters, 3, kernel_init=init)
        variables = layer.init(jax.random.key(i), y)
        y, pullback = jax.vjp(
            lambda y, layer=layer, variables=variables: layer.apply(variables, y), y
        )
        pullbacks.append(pullback)
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)
    gradient = y
    for pullback in reversed(pullbacks):
        (gradient,) = pullback(gradient)
    np.testing.assert_allclose(gradient, x, rtol=1e-4, atol=1e-5)


def test_dirac_kernels_are_those_of_torch():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    for shape in ((3, 3, 4, 4), (3, 3, 4, 6), (3, 3, 6, 4), (7, 7, 3, 8)):
        expected = torch.nn.init.dirac_(torch.empty(*shape[:1:-1], *shape[:2]))
        np.testing.assert_array_equal(dirac_kernel(shape), expected.permute(2, 3, 1, 0))


def test_dirac_init_has_no_equal_filters():
    init = make_kernel_init("dirac", squared_gain=2.0)
    x = jax.random.uniform(jax.random.key(1), (1, 5, 5, 4))
    conv = make_conv()
    same = conv(4, 3, kernel_init=init)
    np.testing.assert_array_equal(same.apply(same.init(jax.random.key(0), x), x), x)
    kernel = init(jax.random.key(0), (3, 3, 4, 8))
    np.testing.assert_allclose(np.linalg.svd(kernel[1, 1], compute_uv=False), 2**0.5, rtol=1e-5)
    assert len(np.unique(np.round(kernel[1, 1], 5), axis=1).T) == 8


def test_fewer_filters_than_channels_are_refused():
    with pytest.raises(ConfigError, match="got 8 channels and 4 filters"):
        make_kernel_init("delta-orthogonal", 2.0)(jax.random.key(0), (3, 3, 8, 4))


@pytest.mark.parametrize("squared_gain", [1.0, 2.0])
def test_he_kernels_have_the_variance_of_the_gain(squared_gain):
    kernel = make_kernel_init("he", squared_gain)(jax.random.key(0), (3, 3, 64, 64), jnp.float32)
    np.testing.assert_allclose(np.var(kernel) * 9 * 64, squared_gain, rtol=0.02)
