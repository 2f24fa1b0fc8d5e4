"""XLA and memory-allocator settings that speed up training on a CPU.

They must be in the environment before JAX, or the process itself, starts. A program therefore calls
`tune` first.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import sys
from collections.abc import Callable, Mapping

from flaxres.cpu.build import Build
from flaxres.cpu.detection import runs_on_cpu
from flaxres.cpu.kernel_files import KERNELS

KERNELS_SWITCH = "FLAXRES_CPU_KERNELS"  # environment variable; 0 disables the kernels

# jaxlib's YNNPACK convolutions are slow for the gradients of small filters. XLA aborts the process
# on an unknown flag, so the flag is set only for jaxlib versions in which it was tested.
CONVOLUTION_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
TESTED_VERSIONS = ("0.10.", "0.11.")

# XLA allocates its buffers with malloc in every step. By default glibc returns large ones to the
# system each time, and the page faults of getting them back cost as much as the arithmetic.
MALLOC_TUNABLES = (
    "glibc.malloc.hugetlb=1"
    ":glibc.malloc.mmap_max=0"
    ":glibc.malloc.trim_threshold=17179869184"
    ":glibc.malloc.top_pad=536870912"
    ":glibc.malloc.arena_max=1"  # arenas other than the first map large allocations each time
)

_builds: dict[str, Build] = {}  # by dtype of images
_starts_builds = False  # True in programs that called `tune`, on a CPU
_is_reported = False  # True once `report_missing_settings` has printed its line


def tune() -> None:
    """Sets XLA_FLAGS and GLIBC_TUNABLES and starts to build the kernels if JAX runs on the CPU.

    Call it first in a program, before JAX is imported: setting GLIBC_TUNABLES restarts the process.
    Values that the user has set take precedence. The kernels for float32 are built in the
    background, unless they are in the cache.
    """
    if not runs_on_cpu():
        return
    tunables = os.environ.get("GLIBC_TUNABLES")
    os.environ.update(environment(os.environ))
    if os.environ.get("GLIBC_TUNABLES") != tunables:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    start_builds()


def start_builds() -> None:
    """Starts to build the kernels for float32, and lets `start_build` start others."""
    global _starts_builds
    _starts_builds = os.environ.get(KERNELS_SWITCH) != "0"
    start_build("float32")


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Returns XLA_FLAGS and GLIBC_TUNABLES with the settings for training on a CPU.

    Args:
      variables: the environment, whose own values take precedence.

    Returns:
      The two variables; one that needs no setting and has none is left out.
    """
    result = {}
    flags, tunables = variables.get("XLA_FLAGS", ""), variables.get("GLIBC_TUNABLES", "")
    if CONVOLUTION_FLAG not in flags and has_tested_version():
        flags = f"{flags} {CONVOLUTION_FLAG}=-individual_convolution".strip()
    if sys.platform == "linux" and "glibc.malloc" not in tunables:
        tunables = ":".join(filter(None, [tunables, MALLOC_TUNABLES]))
    if flags:
        result["XLA_FLAGS"] = flags
    if tunables:
        result["GLIBC_TUNABLES"] = tunables
    return result


def has_tested_version() -> bool:
    """Returns True if the convolution flag was tested with the installed jaxlib."""
    return importlib.metadata.version("jaxlib").startswith(TESTED_VERSIONS)


def report_missing_settings(log: Callable[[str], None]) -> None:
    """Reports, once in a process, that JAX runs on the CPU without the settings of `tune`.

    This happens where an accelerator was assumed (`runs_on_cpu`) and JAX finds none. Call it after
    the processes of a run are connected, because it starts JAX's backend.

    Args:
      log: prints a line.
    """
    global _is_reported
    if _is_reported or runs_on_cpu():
        return
    import jax

    if jax.default_backend() == "cpu":
        _is_reported = True
        log(
            "JAX runs on the CPU, because its plugins find no accelerator, and without flaxres's "
            "settings of XLA and memory allocation for CPUs; JAX_PLATFORMS=cpu turns them on"
        )


def execute_asynchronously(asynchronous: bool) -> None:
    """Chooses whether JAX returns from a call on a CPU before its end. The default is True.

    Call it before JAX's backend starts; later it has no effect. XLA:CPU allocates the temporary
    arrays of an asynchronous call at its launch and frees them a little after its results are
    ready, so a call that follows at once holds the memory of two. A synchronous call runs in the
    calling thread, and its memory is free when it returns.
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", asynchronous)


def release_free_memory() -> None:
    """Returns memory that is allocated but not in use to the system, where the C library can.

    Call it after a compilation, whose freed memory would otherwise remain with the process: it is
    scattered over pieces that are too small for the arrays of a step.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def start_build(dtype: str) -> None:
    """Starts to build the kernels for a dtype of images, in a program that called `tune`.

    Args:
      dtype: 'float32' or 'bfloat16'.
    """
    if _starts_builds and dtype not in _builds:
        _builds[dtype] = Build(KERNELS[dtype])


def started_build(dtype: str) -> Build | None:
    """Returns the build for a dtype of images that this program has started, or None."""
    return _builds.get(dtype)


def set_xla_flags() -> None:
    """Adds the convolution flag to XLA_FLAGS, unless the user has set it. JAX must not run yet."""
    if flags := environment(os.environ).get("XLA_FLAGS"):
        os.environ["XLA_FLAGS"] = flags
