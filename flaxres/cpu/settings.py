"""Settings that make XLA's CPU backend fast for these nets; without effect on accelerators.

All of them must be in the environment before the process or JAX starts, so `tune` comes first.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys

from flaxres.cpu.build import Build

# jaxlib's YNNPACK convolutions are slow for the gradients of small filters. XLA aborts the process
# on a flag that it does not know, so it is set only for versions where it was tried.
CONVOLUTION_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
KNOWN_VERSIONS = ("0.10.", "0.11.")

# XLA takes its buffers from malloc anew at every step. By default glibc returns large ones to the
# system each time, and the page faults of getting them back cost as much as the arithmetic.
MALLOC_TUNABLES = (
    "glibc.malloc.hugetlb=1"
    ":glibc.malloc.mmap_max=0"
    ":glibc.malloc.trim_threshold=17179869184"
    ":glibc.malloc.top_pad=536870912"
    ":glibc.malloc.arena_max=1"  # in another arena than the first, large ones are mapped each time
)

_build: Build | None = None  # of the kernels, in the background


def tune() -> None:
    """Sets XLA_FLAGS and GLIBC_TUNABLES, for which it may start this process anew.

    Call it first in a program, before JAX is imported. What the user has set wins. The kernels are
    built in the background meanwhile, if they are not there.
    """
    global _build
    if not runs_on_cpu():
        return
    set_xla_flags()
    if sys.platform == "linux" and "glibc.malloc" not in os.environ.get("GLIBC_TUNABLES", ""):
        tunables = filter(None, [os.environ.get("GLIBC_TUNABLES"), MALLOC_TUNABLES])
        os.environ["GLIBC_TUNABLES"] = ":".join(tunables)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    _build = Build()


def started_build() -> Build | None:
    """The build that `tune` has started."""
    return _build


def runs_on_cpu() -> bool:
    """Whether JAX will compute on the CPU: told to, or without a plugin for anything else."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms == "cpu"
    return not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))


def set_xla_flags() -> None:
    """Adds to XLA_FLAGS, for the JAX that this process will start."""
    flags = os.environ.get("XLA_FLAGS", "")
    version = importlib.metadata.version("jaxlib")
    if CONVOLUTION_FLAG not in flags and version.startswith(KNOWN_VERSIONS):
        os.environ["XLA_FLAGS"] = f"{flags} {CONVOLUTION_FLAG}=-individual_convolution".strip()
