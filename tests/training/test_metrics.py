"""Sums and averages of metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from flaxres.training.metrics import MetricSums


def test_sums_and_averages_by_hand():
    logits = jnp.array([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [0.0, 1.0]])
    labels = jnp.array([0, 0, 1, 1])
    weights = jnp.array([True, True, True, False])
    sums = MetricSums.from_batch(jnp.array([0.5, 1.0, 2.0, 100.0]), logits, labels, weights)
    assert (float(sums.loss), int(sums.wrong), int(sums.count)) == (3.5, 2, 3)
    both = sums + sums + MetricSums.zeros()
    assert both.averages("test") == {
        "test_loss": pytest.approx(3.5 / 3),
        "test_error": pytest.approx(200 / 3),
    }


def test_sums_over_devices_are_exact_and_need_one_kind_of_all_reduce():
    """Eight devices have 2**20 + i wrong images of 2**21, at most 2**24 in all."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    wrong, count = 2**20 + jnp.arange(8, dtype=jnp.int32), jnp.full(8, 2**21, jnp.int32)
    sums = MetricSums(jnp.arange(8.0), wrong, count)
    specs = {"in_specs": PartitionSpec("data"), "out_specs": PartitionSpec()}
    total = jax.jit(
        jax.shard_map(
            lambda sums: jax.tree.map(lambda leaf: leaf[0], sums).sum_over_devices("data"),
            mesh=mesh,
            check_vma=False,
            **specs,
        )
    )
    assert total(sums) == MetricSums(28, 2**23 + 28, 2**24)
    assert {leaf.dtype for leaf in jax.tree.leaves(total(sums))} == {np.dtype("f4"), np.dtype("i4")}
    assert "tensor<i32>" not in "".join(
        line for line in total.lower(sums).as_text().splitlines() if "all_reduce" in line
    )
