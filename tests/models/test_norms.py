"""Norms, compared with their formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.models.norms import make_norm


def norm(name, train=True):
    return make_norm(name, train=train, dtype=jnp.float32, momentum=0.9, epsilon=1e-5)()


@pytest.mark.parametrize(
    ("name", "axes"), [("layer", (1, 2, 3)), ("instance", (1, 2)), ("group", (1, 2, 4))]
)
def test_other_norms_by_hand(name, axes):
    x = np.asarray(3 + 2 * jax.random.normal(jax.random.key(0), (2, 4, 4, 16)))
    y, variables = norm(name).init_with_output(jax.random.key(1), x)
    assert set(variables) == {"params"}
    grouped = x.reshape(2, 4, 4, 2, 8) if name == "group" else x
    mean, var = grouped.mean(axes, keepdims=True), grouped.var(axes, keepdims=True)
    expected = ((grouped - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_no_norm_is_the_identity():
    x = jnp.arange(4.0).reshape(1, 1, 1, 4)
    y, variables = norm("none").init_with_output(jax.random.key(0), x)
    assert not variables
    np.testing.assert_array_equal(x, y)


def test_unknown_norm():
    with pytest.raises(ValueError, match=r"must be one of batch, .*, got 'bacth'"):
        norm("bacth")


def test_instance_norm_with_running_statistics_by_hand():
    x = np.asarray(3 + 2 * jax.random.normal(jax.random.key(0), (8, 4, 4, 3)))
    variables = norm("instance-running").init(jax.random.key(1), x)
    y, updated = norm("instance-running").apply(variables, x, mutable=["batch_stats"])
    instance, _ = norm("instance").init_with_output(jax.random.key(1), x)
    np.testing.assert_allclose(y, instance, rtol=1e-5, atol=1e-5)
    mean, var = x.mean((1, 2)).mean(0), x.var((1, 2)).mean(0)
    running = updated["batch_stats"]
    np.testing.assert_allclose(running["instance_mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(running["instance_var"], 0.9 + 0.1 * var, rtol=1e-5)
    y = norm("instance-running", train=False).apply({**variables, **updated}, x)
    expected = (x - 0.1 * mean) / np.sqrt(0.9 + 0.1 * var + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
