"""Stages as loops against the same stages block by block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import cifar_net, quick_jit
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


@pytest.mark.slow
def test_gradients_through_1202_layers_are_finite_and_reach_the_first():
    """With the paper's initialisation: He-2015 kernels, norms that begin as such."""
    net, images, labels = cifar_net(1202, "A", scan=True), batch(4), jnp.arange(4)
    rng = np.random.default_rng(0)

    def initial(path, leaf):
        name = path[-1].key
        if name == "kernel":
            std = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return np.float32(std * rng.standard_normal(leaf.shape))
        return np.full(leaf.shape, float(name in ("scale", "var")), np.float32)

    variables = jax.tree_util.tree_map_with_path(initial, shapes(net, images))

    def loss(params):
        variables["params"] = params
        logits, _ = net.apply(variables, images, train=True, mutable=["batch_stats"])
        return -jnp.mean(jax.nn.log_softmax(logits)[labels, labels])

    gradients = jax.device_get(quick_jit(jax.grad(loss))(variables["params"]))
    norms = [np.linalg.norm(leaf) for leaf in jax.tree.leaves(gradients)]
    assert len(norms) == 3 * 1201 + 2  # kernel, scale and bias of each layer; the dense layer's
    assert np.isfinite(norms).all()
    assert np.linalg.norm(gradients["conv"]["kernel"]) > 1e-3
