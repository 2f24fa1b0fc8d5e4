"""Random directions with filter norms, compared with a computation filter by filter."""

import jax
import numpy as np
import pytest

from flaxres.errors import ConfigError
from flaxres.experiments.analyses.directions import interpolate, move, random_direction
from flaxres.models import create_model
from tests.conftest import init, small_config


@pytest.fixture(scope="module")
def variables():
    """Variables of a model with convolutions, projections, norms and a dense layer."""
    config = small_config()
    config.model.update({"shortcut": "B"})
    images = np.zeros((2, 8, 8, 1), np.float32)
    return jax.device_get(init(create_model(config.model, 10), images))


def test_filters_have_the_norms_of_the_model(variables):
    params = variables["params"]
    direction = random_direction(params, seed=3, number=0)
    for path in (("conv",), ("stage1_block1", "conv2"), ("stage2_block1", "shortcut", "conv")):
        layer, model_layer = direction, params
        for part in path:
            layer, model_layer = layer[part], model_layer[part]
        kernel, model_kernel = layer["kernel"], model_layer["kernel"]
        assert kernel.shape == model_kernel.shape
        for i in range(kernel.shape[3]):
            expected = np.sqrt((np.float64(model_kernel[:, :, :, i]) ** 2).sum())
            assert np.linalg.norm(kernel[:, :, :, i].ravel()) == pytest.approx(expected, rel=1e-5)
    dense = direction["dense"]["kernel"], params["dense"]["kernel"]
    np.testing.assert_allclose(*(np.linalg.norm(kernel, axis=0) for kernel in dense), rtol=1e-5)
    assert not direction["dense"]["bias"].any()
    for norm in (direction["norm"], direction["stage2_block1"]["shortcut"]["norm"]):
        assert not norm["scale"].any()
        assert not norm["bias"].any()
    assert jax.tree.structure(direction) == jax.tree.structure(dict(params))


def test_directions_are_random_and_a_function_of_seed_and_number(variables):
    params = variables["params"]

    def flat_direction(seed, number):
        leaves = jax.tree.leaves(random_direction(params, seed, number))
        return np.concatenate([leaf.ravel() for leaf in leaves])

    first = flat_direction(0, 0)
    np.testing.assert_array_equal(flat_direction(0, 0), first)
    for other in (flat_direction(1, 0), flat_direction(0, 1)):
        cosine = first @ other / np.linalg.norm(first) / np.linalg.norm(other)
        assert abs(cosine) < 5 / np.sqrt((first != 0).sum())


def test_a_filter_of_zeros_has_a_direction_of_zeros():
    kernel = np.ones((3, 3, 2, 4), np.float32)
    kernel[..., 1] = 0
    direction = random_direction({"conv": {"kernel": kernel}}, 0, 0)["conv"]["kernel"]
    assert not direction[..., 1].any()
    np.testing.assert_allclose((direction**2).sum((0, 1, 2)), [18, 0, 18, 18], rtol=1e-5)


def test_move_adds_multiples_of_directions(variables):
    first, second = (random_direction(variables["params"], 0, number) for number in range(2))
    moved = move(variables, [first, second], [0.5, -2.0])
    w, x, y = (
        params["stage3_block1"]["conv1"]["kernel"]
        for params in (variables["params"], first, second)
    )
    kernel = moved["params"]["stage3_block1"]["conv1"]["kernel"]
    np.testing.assert_allclose(kernel, w + 0.5 * x - 2 * y, rtol=1e-5, atol=1e-6)
    assert moved["batch_stats"] is variables["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, move(variables, [first], [0.0]), variables)


def test_interpolate_covers_parameters_and_statistics(variables):
    other = jax.tree.map(lambda leaf: 3 * leaf + 1, variables)
    jax.tree.map(np.testing.assert_array_equal, interpolate(variables, other, 0.0), variables)
    jax.tree.map(np.testing.assert_array_equal, interpolate(variables, other, 1.0), other)
    quarter = interpolate(variables, other, 0.25)
    assert quarter.keys() == {"params", "batch_stats"}
    expected = jax.tree.map(lambda leaf: 1.5 * leaf + 0.25, variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), quarter, expected)
    wider = {**variables, "params": {"dense": {"kernel": np.zeros((2, 3))}}}
    with pytest.raises(ConfigError, match="cannot interpolate between models whose weights differ"):
        interpolate(variables, wider, 0.5)
