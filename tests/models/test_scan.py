"""Stages that run as loops, compared with the same stages block by block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import cifar_model, quick_jit
from tests.models.test_remat import batch, random_variables, shapes, train_gradients


@pytest.mark.parametrize(
    ("shortcut", "fields"),
    [
        ("A", {}),
        ("A", {"remat": True}),
        ("none", {"norm": "group"}),
        ("B", {"block": "bottleneck", "pre_activation": True, "widths": (4, 4, 8)}),
    ],
)
def test_variables_values_and_gradients_are_equal(shortcut, fields):
    images = batch()
    depth = 29 if "block" in fields else 26
    unrolled, scanned = (
        cifar_model(depth, shortcut, scan=scan, **fields) for scan in (False, True)
    )
    variables = random_variables(unrolled, images)
    assert shapes(scanned, images) == shapes(unrolled, images)
    gradients, (logits, updated) = jax.jit(train_gradients, static_argnums=0)(
        unrolled, variables, images
    )
    scan_gradients, (scan_logits, scan_updated) = jax.jit(train_gradients, static_argnums=0)(
        scanned, variables, images
    )
    np.testing.assert_allclose(scan_logits, logits, rtol=1e-4, atol=1e-4 * np.abs(logits).max())
    for actual, expected in ((scan_updated, updated), (scan_gradients, gradients)):
        assert jax.tree.structure(actual) == jax.tree.structure(expected)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, 0, 1e-4 * np.abs(b).max()),
            actual,
            expected,
        )


def test_evaluation_is_equal():
    images = batch()
    unrolled, scanned = (cifar_model(26, "A", scan=scan) for scan in (False, True))
    variables = random_variables(unrolled, images)
    apply = jax.jit(lambda model, v: model.apply(v, images, train=False), static_argnums=0)
    np.testing.assert_allclose(apply(scanned, variables), apply(unrolled, variables), rtol=1e-5)


@pytest.mark.slow
def test_gradients_through_1202_layers_are_finite_and_reach_the_first_layer():
    """Uses the paper's initialization: He-2015 kernels, and norms with scale 1 and bias 0."""
    model, images, labels = cifar_model(1202, "A", scan=True), batch(4), jnp.arange(4)
    rng = np.random.default_rng(0)

    def initial(path, leaf):
        name = path[-1].key
        if name == "kernel":
            std = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return np.float32(std * rng.standard_normal(leaf.shape))
        return np.full(leaf.shape, float(name in ("scale", "var")), np.float32)

    variables = jax.tree_util.tree_map_with_path(initial, shapes(model, images))

    def loss(params):
        variables["params"] = params
        logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return -jnp.mean(jax.nn.log_softmax(logits)[labels, labels])

    gradients = jax.device_get(quick_jit(jax.grad(loss))(variables["params"]))
    norms = [np.linalg.norm(leaf) for leaf in jax.tree.leaves(gradients)]
    # Kernel, scale and bias of each layer, and kernel and bias of the head.
    assert len(norms) == 3 * 1201 + 2
    assert np.isfinite(norms).all()
    assert np.linalg.norm(gradients["conv"]["kernel"]) > 1e-3
