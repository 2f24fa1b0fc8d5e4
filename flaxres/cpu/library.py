"""The compiled kernels as XLA FFI targets: built, loaded and registered on first use."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from flaxres.cpu import settings
from flaxres.cpu.build import Build
from flaxres.cpu.kernel_files import DTYPES, FUNCTIONS, KERNELS, symbol
from flaxres.errors import printable
from flaxres.platforms import traced_platform


@dataclasses.dataclass(frozen=True)
class Library:
    """The registered kernels.

    Attributes:
      dtype: dtype of images.
      lanes: float32 values in a vector register; output channels must be a multiple of it.
      key: key of the build. It is part of the FFI target names, so that a cached program that was
        compiled for other sources does not call these kernels.
    """

    dtype: str
    lanes: int
    key: str

    def call(
        self,
        name: str,
        results: jax.ShapeDtypeStruct | tuple[jax.ShapeDtypeStruct, ...],
        images: Float[Array | np.ndarray, ...],
        *arrays: Float[Array | np.ndarray, ...],
        **attributes: int | float | np.float32,
    ) -> Any:
        """Calls a kernel.

        Args:
          name: one of `FUNCTIONS`.
          results: shape and dtype of the result, or of several results.
          images: first argument of the kernel. All arguments and results that are images have the
            dtype of this library; all others are float32.
          *arrays: further arguments of the kernel.
          **attributes: static attributes of the call.

        Returns:
          The result, an array, or a list of the results.
        """
        target = f"{symbol(name, self.dtype)}_{self.key}"
        function = jax.ffi.ffi_call(target, results, vmap_method="broadcast_all")
        return function(images, *arrays, **attributes)


_lock = threading.Lock()  # XLA refuses a second registration
_disabled = contextvars.ContextVar("_disabled", default=False)


@contextlib.contextmanager
def kernels_disabled() -> Iterator[None]:
    """Disables the kernels in code that is traced in this context; it uses XLA's operations."""
    token = _disabled.set(True)
    try:
        yield
    finally:
        _disabled.reset(token)


def active_kernels(dtype: np.dtype) -> Library | None:
    """Returns the kernels for images, or None if code traced here must use XLA's operations.

    Args:
      dtype: dtype of the images; there are kernels only for float32 and bfloat16.
    """
    if _disabled.get() or dtype.name not in DTYPES or traced_platform() != "cpu":
        return None
    return library(dtype.name)


def require_library(dtype: np.dtype) -> Library:
    """Returns the kernels for images of a dtype.

    Raises:
      RuntimeError: the kernels are disabled or cannot be built. Check `active_kernels` first.
    """
    kernels = library(dtype.name)
    if kernels is None:
        raise RuntimeError("the CPU kernels are disabled or cannot be built")
    return kernels


def library(dtype: str = "float32") -> Library | None:
    """Builds, loads and registers the kernels for images of a dtype, once in a process.

    Args:
      dtype: one of `DTYPES`.

    Returns:
      The kernels, or None if FLAXRES_CPU_KERNELS=0 or if they cannot be built.
    """
    with _lock:
        return _register(dtype)


@functools.cache
def _register(dtype: str) -> Library | None:
    if os.environ.get(settings.KERNELS_SWITCH) == "0":
        return None
    build = settings.started_build(dtype) or Build(KERNELS[dtype])
    shared_object = build.wait()
    if shared_object is None:
        print(
            f"The CPU kernels cannot be built ({printable(build.problem)}). Training takes about 3 "
            "times as long without them.",
            file=sys.stderr,
        )
        return None
    for target in (symbol(name, dtype) for name in FUNCTIONS):
        function = jax.ffi.pycapsule(getattr(shared_object, target))
        jax.ffi.register_ffi_target(f"{target}_{build.key}", function, platform="cpu")
    return Library(dtype, shared_object.flaxres_lanes(), build.key)
