"""The compiled kernels as XLA FFI targets: built, loaded and registered on first use."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import os
import sys
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from flaxres.cpu import settings
from flaxres.cpu.build import Build
from flaxres.cpu.kernel_files import FUNCTIONS


@dataclasses.dataclass(frozen=True)
class Library:
    """The registered kernels.

    Attributes:
      lanes: float32 values in a vector register; the number of output channels must be a multiple.
      key: key of the build. It is part of the FFI target names, so that a cached program that was
        compiled for other sources does not call these kernels.
    """

    lanes: int
    key: str

    def call(
        self,
        name: str,
        shape: tuple[int, ...],
        *arrays: Float32[Array | np.ndarray, ...],
        **attributes: int | float | np.float32,
    ) -> Float32[Array, ...]:
        """Calls a kernel that has one result.

        Args:
          name: one of `FUNCTIONS`.
          shape: shape of the result.
          *arrays: arguments of the kernel.
          **attributes: numbers that are constant in the compiled program.
        """
        result = jax.ShapeDtypeStruct(shape, jnp.float32)
        target = jax.ffi.ffi_call(self._target(name), result, vmap_method="broadcast_all")
        return target(*arrays, **attributes)

    def call_multiple(
        self,
        name: str,
        shapes: Sequence[tuple[int, ...]],
        *arrays: Float32[Array | np.ndarray, ...],
        **attributes: int | float | np.float32,
    ) -> Sequence[Float32[Array, ...]]:
        """Calls a kernel that has several results, of the given shapes."""
        results = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
        target = jax.ffi.ffi_call(self._target(name), results, vmap_method="broadcast_all")
        return target(*arrays, **attributes)

    def _target(self, name: str) -> str:
        return f"flaxres_{name}_{self.key}"


_disabled = contextvars.ContextVar("_disabled", default=False)


@contextlib.contextmanager
def kernels_disabled() -> Iterator[None]:
    """Uses XLA's operations in code traced in this context, which then needs no built kernels."""
    token = _disabled.set(True)
    try:
        yield
    finally:
        _disabled.reset(token)


def active_kernels() -> Library | None:
    """Returns the kernels, or None if code traced here must use XLA's operations."""
    return None if _disabled.get() else library()


def require_library() -> Library:
    """Returns the kernels.

    Raises:
      RuntimeError: there are none. Check `active_kernels` first.
    """
    kernels = library()
    if kernels is None:
        raise RuntimeError("the CPU kernels are disabled or cannot be built")
    return kernels


@functools.cache
def library() -> Library | None:
    """Builds, loads and registers the kernels.

    Returns:
      The kernels, or None on an accelerator, if FLAXRES_CPU_KERNELS=0, or if they cannot be built.
    """
    if jax.default_backend() != "cpu" or os.environ.get(settings.KERNELS_SWITCH) == "0":
        return None
    build = settings.started_build() or Build()
    shared_object = build.wait()
    if shared_object is None:
        print(
            f"The CPU kernels cannot be built ({build.problem}). Training takes about 3 times as "
            "long without them.",
            file=sys.stderr,
        )
        return None
    for name in FUNCTIONS:
        function = jax.ffi.pycapsule(getattr(shared_object, f"flaxres_{name}"))
        jax.ffi.register_ffi_target(f"flaxres_{name}_{build.key}", function, platform="cpu")
    return Library(shared_object.flaxres_lanes(), build.key)
