"""Rematerialized models, compared with the same models without: results and memory."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from flaxres.cpu import kernels
from flaxres.models.remat import add_dependency
from tests.conftest import cifar_model


def assert_equal(one, other):
    """Checks that two trees have the same structure and bitwise equal values."""
    jax.tree.map(np.testing.assert_array_equal, one, other)


def batch(size=8, side=8):
    return jax.random.normal(jax.random.key(1), (size, side, side, 3))


def shapes(model, images):
    """Returns the shapes of a model's variables."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=True))


def random_variables(model, images):
    """Returns positive random variables (variances must be positive), faster than `init`."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.uniform(0.01, 0.1, leaf.shape).astype(leaf.dtype), shapes(model, images)
    )


def train_gradients(model, variables, images):
    """Returns (gradients of all parameters, (logits, updated variables)) of a training step."""

    def loss(params):
        logits, updated = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(logits**2), (logits, updated)

    return jax.grad(loss, has_aux=True)(variables["params"])


@pytest.mark.parametrize(
    ("shortcut", "norm", "dtype"),
    [
        ("none", "none", "float32"),
        ("A", "batch", "float32"),
        ("A", "batch", "bfloat16"),
        ("B", "instance", "float32"),
    ],
)
def test_variables_values_and_gradients_are_equal(shortcut, norm, dtype):
    images = batch()
    models = [
        cifar_model(8, shortcut, 10, norm=norm, dtype=jnp.dtype(dtype), remat=remat)
        for remat in (False, True)
    ]
    variables = random_variables(models[0], images)
    assert shapes(models[1], images) == shapes(models[0], images)
    # XLA may fuse and round recomputed operations differently.
    plain, rematerialized = (
        jax.jit(train_gradients, static_argnums=0)(model, variables, images) for model in models
    )
    tolerance = 1e-5 if dtype == "float32" else 3e-2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 0, tolerance * np.abs(b).max()),
        rematerialized,
        plain,
    )
    if (shortcut, norm, dtype) == ("A", "batch", "float32") and kernels.library() is not None:
        # In the paper's model, kernels compute everything that is recomputed.
        assert_equal(rematerialized, plain)


def test_evaluation_is_equal():
    images = batch()
    model = cifar_model(8, "A", 10, remat=True)
    variables = random_variables(model, images)
    expected = cifar_model(8, "A", 10).apply(variables, images, train=False)
    assert_equal(model.apply(variables, images, train=False), expected)


def test_vmap_over_two_seeds():
    images = batch()
    model = cifar_model(8, "A", 10, remat=True)
    variables = random_variables(model, images)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.5 * leaf]), variables)
    step = functools.partial(train_gradients, model, images=images)
    single, both = jax.jit(step)(variables), jax.jit(jax.vmap(step))(stacked)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(b[0], a, 0, 1e-5 * np.abs(a).max()), single, both
    )


def test_batch_norm_over_two_devices():
    """Statistics are those of the whole batch, also in the recomputation."""
    images = batch()
    single_device = cifar_model(8, "A", 10)
    variables = random_variables(single_device, images)
    model = cifar_model(8, "A", 10, axis="data", remat=True)

    def step(images):
        gradients, (_, updated) = train_gradients(model, variables, images)
        return jax.lax.psum(gradients, "data"), updated

    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    sharded, replicated = PartitionSpec("data"), PartitionSpec()
    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=(sharded,), out_specs=replicated, check_vma=False
    )
    gradients, (_, updated) = jax.jit(train_gradients, static_argnums=0)(
        single_device, variables, images
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 0, 1e-4 * np.abs(b).max()),
        jax.jit(mapped)(images),
        (gradients, updated),
    )


@pytest.mark.parametrize("with_kernels", [True, False])
def test_the_compiled_program_needs_less_memory(with_kernels):
    """XLA does not merge the recomputation with the first computation or run it too early."""
    images = batch(16, 16)
    temporary_bytes = []
    with contextlib.nullcontext() if with_kernels else kernels.kernels_disabled():
        for remat in (False, True):
            model = cifar_model(20, "A", 10, widths=(16, 16, 16), remat=remat)
            step = jax.jit(functools.partial(train_gradients, model))
            compiled = step.lower(shapes(model, images), images).compile()
            temporary_bytes.append(compiled.memory_analysis().temp_size_in_bytes)
    # One of the four arrays of each block remains, and all four of the block being recomputed.
    assert temporary_bytes[1] < 0.75 * temporary_bytes[0]


def test_a_dependency_does_not_change_the_parameters():
    params = {"kernel": jnp.array([1.0, -0.0, jnp.inf]), "bias": jnp.ones(2)}
    assert_equal(jax.jit(add_dependency)(params, jnp.zeros((2, 3))), params)
