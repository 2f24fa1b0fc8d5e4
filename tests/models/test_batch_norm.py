"""Batch norm, compared with its formula in NumPy and with Flax's module."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from flaxres.models.batch_norm import BatchNorm, pool_running_statistics
from flaxres.parallel.sharding import AXIS
from tests.models.test_norms import norm


def test_a_batch_norm_step_by_hand():
    x = np.asarray(3 + 2 * jax.random.normal(jax.random.key(0), (8, 4, 4, 3)))
    variables = norm("batch").init(jax.random.key(1), x)
    params = {"scale": jnp.array([1.0, 2.0, 0.5]), "bias": jnp.array([0.0, -1.0, 1.0])}
    variables = {**variables, "params": params}
    y, updated = norm("batch").apply(variables, x, mutable=["batch_stats"])
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    expected = (x - mean) / np.sqrt(var + 1e-5) * np.asarray(params["scale"])
    np.testing.assert_allclose(y, expected + np.asarray(params["bias"]), rtol=1e-4, atol=1e-4)
    # Running statistics start at mean 0 and variance 1; the batch has a weight of 0.1.
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * var, rtol=1e-5)
    # Inference normalizes with the running statistics and does not update them.
    variables |= updated
    y = norm("batch", train=False).apply(variables, x)
    expected = (x - 0.1 * mean) / np.sqrt(0.9 + 0.1 * var + 1e-5) * np.asarray(params["scale"])
    np.testing.assert_allclose(y, expected + np.asarray(params["bias"]), rtol=1e-4, atol=1e-4)


def test_the_module_equals_that_of_flax():
    x = 3 + jax.random.normal(jax.random.key(0), (8, 4, 4, 16))
    ours, theirs = (
        module(use_running_average=False, momentum=0.9) for module in (BatchNorm, nn.BatchNorm)
    )
    variables = theirs.init(jax.random.key(0), x)
    assert jax.tree.structure(ours.init(jax.random.key(0), x)) == jax.tree.structure(variables)
    expected = theirs.apply(variables, x, mutable=["batch_stats"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        ours.apply(variables, x, mutable=["batch_stats"]),
        expected,
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_pooled_statistics_equal_statistics_of_all_images(momentum):
    rng = np.random.default_rng(0)
    # The means of the devices differ, so most of the variance is between devices.
    x = rng.normal(rng.normal(0, 3, (8, 1, 1, 1, 5)), 1, (8, 4, 3, 3, 5)).astype(np.float32)
    norm = BatchNorm(use_running_average=False, momentum=momentum)
    running = {"mean": jnp.full(5, 2.0), "var": jnp.full(5, 7.0)}
    instance = {"instance_mean": jnp.arange(3.0), "instance_var": jnp.ones(3)}
    scale = {"scale": jnp.ones(5), "bias": jnp.zeros(5)}

    def update(images):
        variables = {"params": scale, "batch_stats": running}
        stats = norm.apply(variables, images[0], mutable=["batch_stats"])[1]["batch_stats"]
        layers = {"norm": stats, "other": {"norm": stats}, "instance": instance}
        return pool_running_statistics(layers, AXIS, momentum)

    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    specs = {"in_specs": PartitionSpec(AXIS), "out_specs": PartitionSpec()}
    mapped = jax.jit(jax.shard_map(update, mesh=mesh, check_vma=False, **specs))
    assert mapped.lower(x).as_text().count("stablehlo.all_reduce") == 2  # not two for each layer
    layers = mapped(x)
    joined = x.reshape(-1, 5)
    for name, statistic in (("mean", joined.mean(0)), ("var", joined.var(0))):
        expected = momentum * running[name] + (1 - momentum) * statistic
        np.testing.assert_allclose(layers["norm"][name], expected, rtol=1e-5)
        np.testing.assert_array_equal(layers["other"]["norm"][name], layers["norm"][name])
    jax.tree.map(np.testing.assert_array_equal, layers["instance"], instance)


def test_models_without_statistics_have_nothing_to_pool():
    assert pool_running_statistics({}, AXIS, 0.9) == {}
