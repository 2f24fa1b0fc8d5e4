"""Stages as loops against the same stages block by block."""

import jax
import numpy as np
import pytest

from tests.conftest import cifar_net
from tests.models.test_remat import batch, shapes, some_variables, trained


@pytest.mark.parametrize(
    ("shortcut", "fields"),
    [
        ("A", {}),
        ("A", {"remat": True}),
        ("none", {"norm": "group"}),
        ("B", {"block": "bottleneck", "pre_activation": True, "widths": (4, 4, 8)}),
    ],
)
def test_variables_values_and_gradients_are_the_same(shortcut, fields):
    images = batch()
    depth = 29 if "block" in fields else 26
    unrolled, scanned = (cifar_net(depth, shortcut, scan=scan, **fields) for scan in (False, True))
    variables = some_variables(unrolled, images)
    assert shapes(scanned, images) == shapes(unrolled, images)
    gradients, (logits, updated) = jax.jit(trained, static_argnums=0)(unrolled, variables, images)
    ours, (our_logits, ours_updated) = jax.jit(trained, static_argnums=0)(
        scanned, variables, images
    )
    np.testing.assert_allclose(our_logits, logits, rtol=1e-4, atol=1e-4 * np.abs(logits).max())
    for one, other in ((ours_updated, updated), (ours, gradients)):
        assert jax.tree.structure(one) == jax.tree.structure(other)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, 0, 1e-4 * np.abs(b).max()), one, other
        )


def test_evaluation_is_the_same():
    images = batch()
    unrolled, scanned = (cifar_net(26, "A", scan=scan) for scan in (False, True))
    variables = some_variables(unrolled, images)
    apply = jax.jit(lambda net, v: net.apply(v, images, train=False), static_argnums=0)
    np.testing.assert_allclose(apply(scanned, variables), apply(unrolled, variables), rtol=1e-5)
