"""The kernels for instruction sets that this machine may not have, compared with float64.

The kernels run in a process of their own, for ARM in an emulator (Debian's packages
g++-aarch64-linux-gnu and qemu-user). This checks results and says nothing about speed.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from flaxres.cpu import kernels, library
from tests.cpu.emulated_kernels import Target, start, stop

pytestmark = pytest.mark.slow
AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512dq")
TARGETS = [
    Target("x86-64", 4, ("-march=x86-64",)),
    Target("avx2", 8, ("-march=haswell",), needs=("avx2", "fma")),
    Target("avx512", 16, ("-march=skylake-avx512",), needs=AVX512),
    Target("neon", 4, ("-march=armv8-a",), "aarch64"),
    Target("neon-bf16", 4, ("-march=armv8.6-a+bf16",), "aarch64"),
]
# Largest error of each array, as a share of its largest absolute value. In bfloat16, images and the
# gradients passed between kernels are rounded to 8 bits.
TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}
NHWC = ("NHWC", "HWIO", "NHWC")


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A function of the kernels, and the same function written with JAX's operations.

    Attributes:
      name: name in the reports of tests.
      ours, theirs: functions of the images and vectors.
      images: shapes of the arguments that have the compute dtype.
      vectors: shapes of further arguments, float32.
    """

    name: str
    ours: Callable
    theirs: Callable
    images: tuple
    vectors: tuple

    def arguments(self, dtype):
        """Returns random arguments around 1."""
        shapes = (*self.images, *self.vectors)
        arrays = [1 + random(seed, shape) for seed, shape in enumerate(shapes)]
        dtypes = [jnp.dtype(dtype)] * len(self.images) + [np.float32] * len(self.vectors)
        return [array.astype(dtype) for array, dtype in zip(arrays, dtypes, strict=True)]


def random(seed, shape):
    return np.random.default_rng(seed).normal(size=shape)


def convolution(height, width, n_in, n_out, size, stride, pad, groups=1):
    """Returns the case of one convolution."""
    window = ((stride, stride), ((pad, pad), (pad, pad)))
    options = {"dimension_numbers": NHWC, "feature_group_count": groups}
    return Case(
        f"{height}x{width}x{n_in} to {n_out}, size {size}, stride {stride}, {groups} groups",
        lambda x, kernel: (
            kernels.convolve(x, kernel, stride, pad)
            if groups == 1
            else kernels.convolve_groups(x, kernel, stride, pad, groups)
        ),
        lambda x, kernel: lax.conv_general_dilated(x, kernel, *window, **options),
        ((3, height, width, n_in),),
        ((size, size, n_in // groups, n_out),),
    )


def norm_relu(x, scale, bias, add=0.0):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return jnp.maximum((x - mean) / jnp.sqrt(var + 1e-5) * scale + bias + add, 0)


CASES = [
    convolution(8, 8, 16, 16, 3, 1, 1),
    convolution(9, 7, 32, 48, 3, 1, 1),
    convolution(6, 6, 3, 16, 3, 1, 1),
    convolution(9, 10, 16, 32, 3, 2, 1),
    convolution(8, 8, 16, 32, 1, 2, 0),
    convolution(6, 5, 32, 64, 3, 1, 1, groups=4),
    Case(
        "batch norm and addition",
        lambda x, add, *vectors: kernels.batch_norm(x, *vectors, add, 1e-5, True, None)[0],
        lambda x, add, *vectors: norm_relu(x, *vectors, add),
        ((6, 5, 3, 32), (6, 5, 3, 32)),
        ((32,), (32,)),
    ),
    Case(
        "convolution of a batch norm",
        lambda x, *arrays: kernels.norm_relu_convolve(x, *arrays, 1e-5, None, 1, 1)[0],
        lambda x, scale, bias, kernel: lax.conv_general_dilated(
            norm_relu(x, scale, bias), kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=NHWC
        ),
        ((7, 6, 5, 16),),
        ((16,), (16,), (3, 3, 16, 32)),
    ),
]


@functools.cache
def expected(case, dtype):
    """Returns the value and the gradients of a case in float64, for a random cotangent."""
    with jax.enable_x64(True):
        arguments = [np.asarray(x, np.float64) for x in case.arguments(dtype)]
        y, vjp = jax.vjp(case.theirs, *arguments)
        return jax.device_get((y, *vjp(jnp.asarray(cotangent(y.shape, dtype), jnp.float64))))


def cotangent(shape, dtype):
    return random(9, shape).astype(jnp.dtype(dtype))


@pytest.fixture(scope="module", params=TARGETS, ids=lambda target: target.name)
def emulated(request, tmp_path_factory):
    """Uses the kernels of another instruction set instead of those of this machine."""
    target = request.param
    if missing := target.missing():
        pytest.skip(f"needs {missing}")
    directory = tmp_path_factory.mktemp("kernels")
    libraries = {dtype: start(target, dtype, directory) for dtype in TOLERANCES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "library", libraries.get)
        yield
    for emulated in libraries.values():
        stop(emulated)


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_values_and_gradients(case, dtype):
    @jax.jit
    def value_and_gradients(*arguments):
        y, vjp = jax.vjp(case.ours, *arguments)
        return y, *vjp(jnp.asarray(cotangent(y.shape, dtype)))

    actual = jax.device_get(value_and_gradients(*case.arguments(dtype)))
    for a, b in zip(actual, expected(case, dtype), strict=True):
        assert np.abs(a.astype(np.float64) - b).max() <= TOLERANCES[dtype] * np.abs(b).max()
