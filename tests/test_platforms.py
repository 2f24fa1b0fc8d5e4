"""Platform of traced code."""

import jax
import jax.numpy as jnp
import pytest

from flaxres.cpu import kernels
from flaxres.platforms import traced_platform, tracing_for


def test_the_default_is_the_platform_of_the_default_device():
    assert traced_platform() == jax.local_devices()[0].platform
    with jax.default_device(jax.devices("cpu")[-1]):
        assert traced_platform() == "cpu"


def test_contexts_nest():
    with tracing_for("tpu"):
        assert traced_platform() == "tpu"
        with tracing_for("gpu"):
            assert traced_platform() == "gpu"
        assert traced_platform() == "tpu"
    assert traced_platform() == "cpu"


@pytest.mark.skipif(kernels.library() is None, reason="needs a C++ compiler")
def test_kernels_are_called_on_a_cpu_only():
    x = jnp.zeros((2, 8, 8, 16))
    with tracing_for("cpu"):
        assert kernels.supports_norm(x)
    for platform in ("gpu", "tpu"):
        with tracing_for(platform):
            assert not kernels.supports_norm(x)
