"""The functions of cc/kernels.cc as XLA knows them: built, loaded and registered when asked for."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import dataclasses
import functools
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from flaxres.cpu import settings
from flaxres.cpu.build import Build

SWITCH = "FLAXRES_CPU_KERNELS"
FUNCTIONS = (
    *("convolve", "input_gradient", "kernel_gradient"),
    *("norm_sums", "normalize", "norm_gradient_sums", "norm_gradient"),
)


@dataclasses.dataclass(frozen=True)
class Library:
    """The kernels as XLA knows them.

    Attributes:
      lanes: numbers in a vector register; channels of results must be a multiple.
      key: stands in the names that XLA knows, so that a compiled program of another source, kept
        in a cache, does not find these.
    """

    lanes: int
    key: str

    def call(self, name: str, results: Any, *arrays: jax.Array, **attributes: Any) -> Any:
        """Calls one of `FUNCTIONS`; `results` are shapes of float32 arrays."""
        shapes = jax.tree.map(
            lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
            results,
            is_leaf=lambda leaf: isinstance(leaf, tuple) and all(type(d) is int for d in leaf),
        )
        target = f"flaxres_{name}_{self.key}"
        return jax.ffi.ffi_call(target, shapes, vmap_method="broadcast_all")(*arrays, **attributes)


_left_out = contextvars.ContextVar("_left_out", default=False)


@contextlib.contextmanager
def kernels_disabled() -> Iterator[None]:
    """Takes XLA's operations in what is traced within: it need not wait for the kernels."""
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)


def active_kernels() -> Library | None:
    """The kernels, if operations that are traced here should be theirs."""
    return None if _left_out.get() else library()


@functools.cache
def library() -> Library | None:
    """Builds, loads and registers the kernels; None where they are not to be had or not wanted."""
    if jax.default_backend() != "cpu" or os.environ.get(SWITCH) == "0":
        return None
    build = settings.started_build() or Build()
    path = build.wait()
    if path is None:
        print(
            f"the CPU kernels cannot be built ({build.problem}); training takes some 3 times as "
            "long without them",
            file=sys.stderr,
        )
        return None
    loaded = ctypes.CDLL(str(path))
    for name in FUNCTIONS:
        function = jax.ffi.pycapsule(getattr(loaded, f"flaxres_{name}"))
        jax.ffi.register_ffi_target(f"flaxres_{name}_{build.key}", function, platform="cpu")
    return Library(loaded.flaxres_lanes(), build.key)
