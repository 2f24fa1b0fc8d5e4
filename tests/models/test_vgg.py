"""Shortcuts, dropout and image sizes of VGG."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.errors import ConfigError
from flaxres.models.vgg import Vgg
from tests.conftest import init

WIDTHS = (2, 4, 4, 8, 8)


def vgg(**fields):
    return Vgg(stages=(1, 1, 1, 2, 2), widths=WIDTHS, num_classes=5, **fields)


def test_with_shortcuts_the_last_two_layers_can_be_the_identity():
    """They are if the scales of their norms are 0, because their inputs are not negative."""
    images = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))
    model = vgg(skip=True)
    variables = init(model, images)
    for norm in ("stage5_norm1", "stage5_norm2"):
        variables["params"][norm]["scale"] *= 0
    shallow = Vgg(stages=(1, 1, 1, 2, 0), widths=WIDTHS, num_classes=5)
    kept = {
        collection: {name: tree for name, tree in variables[collection].items() if "5" not in name}
        for collection in variables
    }
    apply = functools.partial(model.apply, train=False)
    expected = shallow.apply(kept, images, train=False)
    np.testing.assert_allclose(apply(variables, images), expected, rtol=1e-5, atol=1e-6)
    plain = vgg().apply(variables, images, train=False)
    assert not np.allclose(plain, expected)


def test_hidden_layers_have_dropout_only_in_training():
    images = jax.random.normal(jax.random.key(1), (2, 64, 32, 3))
    model = vgg(hidden=(16,), dropout_rate=0.5, norm="none")
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), images)
    assert variables["params"]["hidden1"]["kernel"].shape == (2 * 1 * 8, 16)
    train = functools.partial(model.apply, variables, images, train=True)
    first, second = (train(rngs={"dropout": jax.random.key(i)}) for i in (0, 1))
    assert not np.allclose(first, second)
    evaluations = [model.apply(variables, images, train=False) for _ in range(2)]
    np.testing.assert_array_equal(*evaluations)


def test_images_that_are_too_small():
    with pytest.raises(ConfigError, match="at least 32 x 32 pixels, got 40 x 31"):
        init(vgg(), jnp.zeros((1, 40, 31, 3)))
