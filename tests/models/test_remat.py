"""Rematerialised nets against the same nets without, and what they need of memory."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from flaxres.cpu import kernels
from flaxres.models.remat import add_dependency
from tests.conftest import cifar_net


def assert_equal(one, other):
    """The same tree with the same numbers, to the last bit."""
    jax.tree.map(np.testing.assert_array_equal, one, other)


def batch(size=8, side=8):
    return jax.random.normal(jax.random.key(1), (size, side, side, 3))


def shapes(net, images):
    return jax.eval_shape(lambda: net.init(jax.random.key(0), images, train=True))


def some_variables(net, images):
    """Random ones, positive as variances must be; quicker than an initialisation."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.uniform(0.01, 0.1, leaf.shape).astype(leaf.dtype), shapes(net, images)
    )


def trained(net, variables, images):
    """Logits and updated variables, and the gradients of all parameters."""

    def loss(params):
        logits, updated = net.apply(
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
def test_variables_values_and_gradients_are_the_same(shortcut, norm, dtype):
    images = batch()
    nets = [
        cifar_net(8, shortcut, 10, norm=norm, dtype=jnp.dtype(dtype), remat=remat)
        for remat in (False, True)
    ]
    variables = some_variables(nets[0], images)
    assert shapes(nets[1], images) == shapes(nets[0], images)
    # XLA may fuse, and round, operations in another way where they are computed again.
    one, other = (jax.jit(trained, static_argnums=0)(net, variables, images) for net in nets)
    tolerance = 1e-5 if dtype == "float32" else 3e-2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 0, tolerance * np.abs(b).max()), other, one
    )
    if (shortcut, norm, dtype) == ("A", "batch", "float32") and kernels.library() is not None:
        assert_equal(other, one)  # the paper's net: all that is computed again is in the kernels


def test_evaluation_is_the_same():
    images = batch()
    net = cifar_net(8, "A", 10, remat=True)
    variables = some_variables(net, images)
    expected = cifar_net(8, "A", 10).apply(variables, images, train=False)
    assert_equal(net.apply(variables, images, train=False), expected)


def test_several_seeds_in_one_program():
    images = batch()
    net = cifar_net(8, "A", 10, remat=True)
    one = some_variables(net, images)
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.5 * leaf]), one)
    step = functools.partial(trained, net, images=images)
    first, second = jax.jit(step)(one), jax.jit(jax.vmap(step))(two)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(b[0], a, 0, 1e-5 * np.abs(a).max()), first, second
    )


def test_batch_norm_over_two_devices():
    """The statistics of the joined batch, also where the blocks are computed again."""
    images = batch()
    alone = cifar_net(8, "A", 10)
    variables = some_variables(alone, images)
    net = cifar_net(8, "A", 10, axis="data", remat=True)

    def step(images):
        gradients, (_, updated) = trained(net, variables, images)
        return jax.lax.psum(gradients, "data"), updated

    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    rows, everywhere = PartitionSpec("data"), PartitionSpec()
    mapped = jax.shard_map(step, mesh=mesh, in_specs=(rows,), out_specs=everywhere, check_vma=False)
    gradients, (_, updated) = jax.jit(trained, static_argnums=0)(alone, variables, images)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 0, 1e-4 * np.abs(b).max()),
        jax.jit(mapped)(images),
        (gradients, updated),
    )


@pytest.mark.parametrize("own_kernels", [True, False])
def test_the_compiled_program_needs_less_memory(own_kernels):
    """XLA does not merge the second computation with the first, nor do it too early."""
    images = batch(16, 16)
    needed = []
    with contextlib.nullcontext() if own_kernels else kernels.kernels_disabled():
        for remat in (False, True):
            net = cifar_net(20, "A", 10, widths=(16, 16, 16), remat=remat)
            step = jax.jit(functools.partial(trained, net))
            compiled = step.lower(shapes(net, images), images).compile()
            needed.append(compiled.memory_analysis().temp_size_in_bytes)
    # Of four arrays a block one is left, and those of one block while it is computed again.
    assert needed[1] < 0.75 * needed[0]


def test_parameters_after_a_gradient_are_the_same():
    params = {"kernel": jnp.array([1.0, -0.0, jnp.inf]), "bias": jnp.ones(2)}
    assert_equal(jax.jit(add_dependency)(params, jnp.zeros((2, 3))), params)
