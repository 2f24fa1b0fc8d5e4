"""CPU kernels, compared with XLA's operations and Flax's batch norm."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from flaxres.cpu import convolutions, kernels
from flaxres.models import create_model
from tests.conftest import init

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="needs a C++ compiler")
CONVOLUTIONS = [  # height, width, in, out, size, stride, pad
    (32, 32, 16, 16, 3, 1, 1),
    (32, 32, 3, 16, 3, 1, 1),
    (8, 8, 64, 64, 3, 1, 1),
    (4, 4, 32, 48, 3, 1, 1),
    (2, 2, 64, 64, 3, 1, 1),
    (9, 7, 16, 32, 3, 1, 1),
    (1, 1, 16, 16, 3, 1, 1),
    (32, 32, 16, 32, 3, 2, 1),
    (9, 10, 16, 32, 3, 2, 1),
    (5, 3, 16, 16, 3, 2, 1),
    (8, 8, 16, 32, 1, 2, 0),
    (8, 8, 16, 32, 1, 1, 0),
    (11, 11, 16, 16, 5, 2, 2),
    (30, 30, 3, 64, 7, 2, 3),
    (10, 10, 16, 16, 3, 3, 1),
    (6, 6, 16, 16, 3, 1, 0),
    (13, 6, 16, 16, 3, 1, 2),
    (15, 12, 16, 32, 3, 1, 1),
    # With many channels, threads divide the channels instead of the images.
    (9, 7, 128, 256, 3, 1, 1),
    (2, 2, 256, 128, 3, 1, 1),
    (9, 7, 128, 256, 3, 2, 1),
]


def test_kernels_are_registered_once():
    """XLA refuses a second registration of another file with the same functions."""
    assert kernels.library() is kernels.library("float32")


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def assert_close(actual, expected, tolerance):
    """Checks that errors are below `tolerance` times the largest absolute value of each array."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        scale = np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def values_and_gradients(functions, *arguments):
    """Returns the value and the gradients of each function, for a random cotangent."""
    results = []
    for function in functions:
        y, vjp = jax.vjp(function, *arguments)
        cotangents = jax.tree.map(lambda leaf: normal(9, *leaf.shape), y)
        results.append((y, vjp(cotangents)))
    return results


@pytest.mark.parametrize("sizes", CONVOLUTIONS, ids=str)
def test_convolution_and_its_gradients(sizes):
    height, width, n_in, n_out, size, stride, pad = sizes
    x, kernel = normal(0, 5, height, width, n_in), normal(1, size, size, n_in, n_out)

    def theirs(x, kernel):
        window = ((stride, stride), ((pad, pad), (pad, pad)))
        return lax.conv_general_dilated(
            x, kernel, *window, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
        )

    def ours(x, kernel):
        return kernels.convolve(x, kernel, stride, pad)

    assert_close(*values_and_gradients((jax.jit(ours), theirs), x, kernel), 1e-5)


@pytest.mark.parametrize(
    ("n_in", "size", "stride", "pad"),
    [(16, 3, 1, 1), (1024, 3, 1, 1), (16, 3, 2, 1), (16, 1, 2, 0), (3, 3, 1, 1)],
    ids=["minimal filtering", "many channels", "stride 2", "1x1", "3 channels"],
)
def test_gradients_of_a_convolution_whose_images_have_another_use(n_in, size, stride, pad):
    x, kernel = normal(0, 5, 9, 8, n_in), normal(1, size, size, n_in, 32)
    padding, numbers = ((pad, pad), (pad, pad)), ("NHWC", "HWIO", "NHWC")

    def theirs(x, kernel):
        y = lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=numbers
        )
        return y, x

    def ours(x, kernel):
        return kernels.convolve_and_pass(x, kernel, stride, pad)

    assert_close(*values_and_gradients((jax.jit(ours), theirs), x, kernel), 1e-5)


@pytest.mark.parametrize(
    ("groups", "n_in", "n_out", "stride"),
    # Groups of a multiple of 16 lanes, of half of them, and such that all groups must be merged.
    [(2, 32, 64, 1), (8, 64, 64, 2), (4, 8, 48, 1), (16, 16, 16, 1)],
)
def test_grouped_convolution_and_its_gradients(groups, n_in, n_out, stride):
    x, kernel = normal(0, 3, 6, 5, n_in), normal(1, 3, 3, n_in // groups, n_out)
    window = ((stride, stride), ((1, 1), (1, 1)))
    options = {"dimension_numbers": kernels.NHWC, "feature_group_count": groups}

    def ours(x, kernel):
        return kernels.convolve_groups(x, kernel, stride, 1, groups)

    def theirs(x, kernel):
        return lax.conv_general_dilated(x, kernel, *window, **options)

    assert_close(*values_and_gradients((ours, theirs), x, kernel), 1e-5)
    compiled = jax.jit(lambda *args: kernels.conv_general_dilated(*args, *window, **options))
    assert "feature_group_count" not in compiled.lower(x, kernel).as_text()


@pytest.mark.parametrize(("relu", "adds"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("shape", [(6, 5, 3, 16), (9, 1, 1, 32), (64, 8, 8, 48)], ids=str)
def test_batch_norm_and_its_gradients(relu, adds, shape):
    x, add = 3 + 2 * normal(0, *shape), normal(1, *shape) if adds else None
    scale, bias = 1 + 0.1 * normal(2, shape[3]), 0.1 * normal(3, shape[3])

    def ours(x, scale, bias, add):
        return kernels.batch_norm(x, scale, bias, add, 1e-5, relu, None)[0]

    def theirs(x, scale, bias, add):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        y = (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias + (0 if add is None else add)
        return jnp.maximum(y, 0) if relu else y

    assert_close(*values_and_gradients((jax.jit(ours), theirs), x, scale, bias, add), 1e-4)
    _, mean, var = kernels.batch_norm(x, scale, bias, add, 1e-5, relu, None)
    assert_close((mean, var), (x.mean((0, 1, 2)), x.var((0, 1, 2))), 1e-5)


@pytest.mark.parametrize("adds", [False, True])
def test_norm_with_running_statistics_and_its_gradients(adds):
    x, add = normal(0, 4, 3, 3, 16), normal(1, 4, 3, 3, 16) if adds else None
    vectors = [1 + 0.1 * jnp.abs(normal(i, 16)) for i in range(4)]

    def ours(x, add, *vectors):
        return kernels.normalize(x, *vectors, add, 1e-5, True)

    def theirs(x, add, scale, bias, mean, var):
        y = (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias
        return jnp.maximum(y if add is None else y + add, 0)

    assert_close(*values_and_gradients((jax.jit(ours), theirs), x, add, *vectors), 1e-5)


@pytest.mark.parametrize(
    ("n_in", "n_out", "stride"), [(16, 32, 1), (32, 16, 2), (128, 256, 1), (128, 256, 2)]
)
def test_a_convolution_that_normalizes_its_input_and_its_gradients(n_in, n_out, stride):
    x, kernel = 3 + normal(0, 7, 6, 5, n_in), normal(1, 3, 3, n_in, n_out)
    scale, bias = 1 + 0.1 * normal(2, n_in), 0.1 * normal(3, n_in)

    def ours(x, scale, bias, kernel):
        return kernels.norm_relu_convolve(x, scale, bias, kernel, 1e-5, None, stride, 1)[0]

    def theirs(x, scale, bias, kernel):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        y = jnp.maximum((x - mean) / jnp.sqrt(var + 1e-5) * scale + bias, 0)
        window = ((stride, stride), ((1, 1), (1, 1)))
        return lax.conv_general_dilated(
            y, kernel, *window, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert_close(*values_and_gradients((jax.jit(ours), theirs), x, scale, bias, kernel), 1e-4)
    _, mean, var = kernels.norm_relu_convolve(x, scale, bias, kernel, 1e-5, None, stride, 1)
    assert_close((mean, var), (x.mean((0, 1, 2)), x.var((0, 1, 2))), 1e-5)


def test_the_gradient_of_a_wide_kernel_over_many_images():
    """A part of the sums has two images, each with more pixels than are packed at a time."""
    x, dy = normal(0, 18, 17, 16, 256), normal(1, 18, 17, 16, 512)
    gradient = convolutions.kernel_gradient((1, 1, 256, 512), 1, 0, x, dy)
    expected = jnp.einsum("nhwi,nhwo->io", x, dy, precision="highest")
    assert_close(gradient[0, 0], expected, 1e-5)


def test_vmap_over_models():
    """Some arguments have an axis for the models, others are shared."""
    x, kernel = normal(0, 3, 4, 8, 8, 16), normal(1, 3, 3, 3, 16, 32)
    scale, bias = 1 + normal(2, 3, 32) / 9, normal(3, 3, 32)

    def apply(x, kernel, scale, bias):
        y = kernels.convolve(x, kernel, 2, 1)
        y = kernels.batch_norm(y, scale, bias, None, 1e-5, True, None)[0]
        square_kernel = jnp.tile(kernel, (1, 1, 2, 1))
        y = kernels.norm_relu_convolve(y, scale, bias, square_kernel, 1e-5, None, 1, 1)[0]
        return kernels.batch_norm(y, scale, bias, y, 1e-5, True, None)[0]

    @jax.jit
    def gradients(*arguments):
        return jax.grad(lambda *args: (apply(*args) ** 2).sum(), argnums=(0, 1, 2, 3))(*arguments)

    mapped = jax.vmap(gradients)(x, kernel, scale, bias)
    separate = [gradients(x[i], kernel[i], scale[i], bias[i]) for i in range(3)]
    assert_close(mapped, jax.tree.map(lambda *leaves: jnp.stack(leaves), *separate), 1e-5)
    shared = jax.vmap(gradients, in_axes=(None, 0, 0, None))(x[0], kernel, scale, bias[0])
    separate = [gradients(x[0], kernel[i], scale[i], bias[0]) for i in range(3)]
    assert_close(shared, jax.tree.map(lambda *leaves: jnp.stack(leaves), *separate), 1e-5)


def test_vmap_within_vmap():
    x, kernel = normal(0, 2, 3, 4, 8, 8, 16), normal(1, 3, 3, 16, 16)

    def apply(x):
        y = kernels.convolve(x, kernel, 1, 1)
        return kernels.batch_norm(y, kernel[0, 0, 0], kernel[0, 0, 1], None, 1e-5, True, None)[0]

    separate = jnp.stack([jnp.stack([apply(images) for images in row]) for row in x])
    assert_close(jax.vmap(jax.vmap(apply))(x), separate, 1e-6)


def test_the_gradient_of_a_kernel_without_images_is_zero():
    x, kernel = jnp.zeros((0, 8, 8, 16)), normal(1, 3, 3, 16, 16)
    gradient = jax.grad(lambda kernel: kernels.convolve(x, kernel, 1, 1).sum())(kernel)
    np.testing.assert_array_equal(gradient, jnp.zeros_like(kernel))


@pytest.mark.parametrize(("family", "shortcut"), [("resnet", "B"), ("plain", "none")])
def test_gradients_of_a_model_equal_those_without_kernels(config, family, shortcut):
    config.model.name, config.model.shortcut = family, shortcut
    config.model.widths = (16, 16, 32)
    model = create_model(config.model, 10)
    x, labels = normal(0, 16, 8, 8, 3), jnp.arange(16) % 10
    variables = init(model, x)

    def value_and_gradients(with_kernels):
        def loss(params, x):
            new_variables = {**variables, "params": params}
            logits, _ = model.apply(new_variables, x, True, mutable=["batch_stats"])
            return -jax.nn.log_softmax(logits)[jnp.arange(16), labels].mean()

        compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        lowered = compiled.lower(variables["params"], x)
        assert ("flaxres_" in lowered.as_text()) == with_kernels
        return lowered.compile()(variables["params"], x)

    ours = value_and_gradients(True)
    with kernels.kernels_disabled():
        theirs = value_and_gradients(False)
    assert_close(ours, theirs, 1e-4)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("dtype", jnp.float16),
        ("kernel", (3, 5, 16, 16)),
        ("kernel", (3, 3, 16, 10)),
        ("kernel", (3, 3, 8, 10)),
        ("window_strides", (1, 2)),
        ("padding", ((0, 1), (0, 1))),
        ("padding", ((3, 3), (3, 3))),
        ("rhs_dilation", (2, 2)),
        ("lhs_dilation", (2, 2)),
    ],
    ids=str,
)
def test_unsupported_convolutions_use_xla(change, value):
    options = {"window_strides": (1, 1), "padding": ((1, 1), (1, 1))}
    options |= {} if change in ("dtype", "kernel") else {change: value}
    dtype = value if change == "dtype" else jnp.float32
    shape = value if change == "kernel" else (3, 3, 16, 16)
    groups = 16 // shape[2]  # 1, or 2 in the case with 8 input channels a group
    x, kernel = normal(0, 2, 8, 8, 16).astype(dtype), normal(1, *shape).astype(dtype)
    numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))

    def convolve(x, kernel):
        return kernels.conv_general_dilated(
            x, kernel, dimension_numbers=numbers, feature_group_count=groups, **options
        )

    assert "flaxres_" not in str(jax.make_jaxpr(convolve)(x, kernel))
    convolve(x, kernel)


def test_results_do_not_depend_on_the_number_of_threads():
    code = """
import jax, hashlib
from flaxres.cpu import convolutions, kernels
x = jax.random.normal(jax.random.key(0), (40, 8, 8, 16))
k = jax.random.normal(jax.random.key(1), (3, 3, 16, 16))
def f(x, k):
    y = kernels.convolve(x, k, 1, 1)
    y, *_ = kernels.batch_norm(y, k[0, 0, 0], k[0, 0, 1], x, 1e-5, True, None)
    return (kernels.convolve(y, k, 2, 1) ** 2).sum()
gradients = jax.jit(jax.grad(f, (0, 1)))
g = [a for dtype in ("float32", "bfloat16") for a in gradients(x.astype(dtype), k)]
print(hashlib.sha256(b"".join(a.tobytes() for a in g)).hexdigest())
"""
    digests = set()
    for threads in ("1", "2", "5"):
        environment = {**os.environ, "PJRT_NPROC": threads, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        digests.add(done.stdout)
    assert len(digests) == 1, digests
    assert len(digests.pop().strip()) == 64
