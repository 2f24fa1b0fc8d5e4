"""The platform for which JAX code is traced: a CPU, a GPU or a TPU.

Some operations have another implementation on each platform. The code that traces a step for given
devices (`flaxres.parallel.sharding`) names their platform, which need not be that of this machine.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("_platform", default=None)


@contextlib.contextmanager
def tracing_for(platform: str) -> Iterator[None]:
    """Makes `traced_platform` return `platform` in this context.

    Args:
      platform: platform of a device in JAX, such as 'cpu', 'gpu' or 'tpu'.
    """
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def traced_platform() -> str:
    """Returns the platform of the code that is traced here.

    Outside of `tracing_for` it is that of JAX's default device.
    """
    if (platform := _platform.get()) is not None:
        return platform
    device = jax.config.values["jax_default_device"] or jax.local_devices()[0]
    return device if isinstance(device, str) else device.platform
