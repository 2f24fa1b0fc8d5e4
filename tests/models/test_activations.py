"""Tailored activations: the slope for a depth, and the moments that it preserves."""

import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.models.activations import (
    leaky_relu_c_map,
    make_activation,
    network_c_map,
    tailored_relu,
    tailored_slope,
)


@pytest.mark.parametrize(("slope", "c"), [(0.0, 0.0), (0.3, 0.5), (0.45, -0.4)])
def test_c_map_is_the_correlation_of_outputs(slope, c):
    """Gauss-Hermite quadrature over two standard normal variables with correlation c."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / weights.sum()
    u, v = np.meshgrid(nodes, nodes, indexing="ij")
    v = c * u + np.sqrt(1 - c**2) * v
    first, second = (np.asarray(tailored_relu(jnp.asarray(z), slope)) for z in (u, v))
    correlation = np.einsum("i,j,ij", weights, weights, first * second)
    assert leaky_relu_c_map(c, slope) == pytest.approx(correlation, abs=2e-3)
    assert np.einsum("i,j,ij", weights, weights, first**2) == pytest.approx(1, abs=1e-5)


# The values of `_compute_negative_slope_param` in the authors' package dks 0.1.2.
@pytest.mark.parametrize(
    ("num_layers", "expected"), [(19, 0.16444278), (55, 0.45185599), (109, 0.58555267)]
)
def test_slope_of_a_depth(num_layers, expected):
    slope = tailored_slope(num_layers, 0.9)
    assert slope == pytest.approx(expected, abs=1e-7)
    assert network_c_map(slope, num_layers) == pytest.approx(0.9, abs=1e-12)


def test_few_layers_have_relu():
    assert tailored_slope(3, 0.9) == 0
    x = jnp.array([-1.0, 2.0])
    np.testing.assert_allclose(make_activation("tailored-relu", 3, 0.9)(x), [0, 2 * 2**0.5])


def test_other_activations():
    x = jnp.array([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(make_activation("relu", 55, 0.9)(x), [0, 0, 2])
    np.testing.assert_allclose(make_activation("tanh", 55, 0.9)(x), np.tanh([-1, 0, 2]), rtol=1e-6)


def test_images_stay_different_through_55_layers():
    """With ReLU the features of two images become parallel; the tailored slope gives eta."""
    rng, width = np.random.default_rng(0), 600
    x = np.linalg.qr(rng.normal(size=(width, 2)))[0].T
    cosines = {}
    for name, squared_gain in (("relu", 2.0), ("tailored-relu", 1.0)):
        activation, y = make_activation(name, 55, 0.9), x
        for _ in range(55):
            weights = rng.normal(0, (squared_gain / width) ** 0.5, size=(width, width))
            y = np.asarray(activation(np.float32(y @ weights)))
        cosines[name] = y[0] @ y[1] / np.linalg.norm(y[0]) / np.linalg.norm(y[1])
    assert cosines["relu"] > 0.98
    assert cosines["tailored-relu"] == pytest.approx(0.9, abs=0.03)
