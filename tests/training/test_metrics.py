"""Sums and averages of metrics."""

import jax.numpy as jnp
import pytest

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
