import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.models.norms import NoNorm
from flaxres.models.shortcuts import apply_shortcut, pad_shortcut


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


class Shortcut(nn.Module):
    option: str
    filters: int
    stride: int

    @nn.compact
    def __call__(self, x):
        conv = functools.partial(nn.Conv, use_bias=False)
        return apply_shortcut(
            self.option, x, filters=self.filters, stride=self.stride, conv=conv, norm=NoNorm
        )


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
    y, variables = Shortcut(option, filters, stride).init_with_output(jax.random.key(1), x)
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
    with pytest.raises(ValueError, match="must be one of A, B, C, none, got 'D'"):
        Shortcut("D", 3, 1).init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
