import functools

import jax
import jax.numpy as jnp
import numpy as np

from flaxres.models.plain import PlainNet
from flaxres.models.repvgg import RepVgg
from flaxres.models.repvgg_merging import merge_branches
from flaxres.models.shortcuts import Shortcut
from tests.conftest import init, quick_jit
from tests.models.trained_values import with_trained_norms

IMAGES = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
CIFAR = {"num_classes": 5, "stages": (2, 1, 1), "widths": (8, 8, 16)}
EPSILON = 1e-3


def test_merged_variables_are_those_of_a_plain_network():
    model = RepVgg(**CIFAR, norm_epsilon=EPSILON)
    variables = with_trained_norms(init(model, IMAGES))
    merged = merge_branches(variables, EPSILON)
    expected = quick_jit(functools.partial(model.apply, train=False))(variables, IMAGES)
    close = {"rtol": 1e-4, "atol": 1e-4 * np.abs(expected).max()}
    plain = PlainNet(**CIFAR, shortcut=Shortcut("none"), norm="none")
    for other in (RepVgg(**CIFAR, merged=True), plain):
        shapes = jax.eval_shape(
            functools.partial(other.init, train=True), jax.random.key(0), IMAGES
        )
        assert jax.tree.map(jnp.shape, merged["params"]) == jax.tree.map(
            jnp.shape, shapes["params"]
        )
        logits = quick_jit(functools.partial(other.apply, train=False))(merged, IMAGES)
        np.testing.assert_allclose(logits, expected, **close)
