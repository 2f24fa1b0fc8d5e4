"""CPU settings of a process that is running already: a script, a notebook, an application.

The commands restart themselves with `flaxres.cpu.tune`, which others must not do. `tune_running`
changes what can be changed before JAX computes; `environment_lines` are shell commands for all
settings, to be run before Python starts.
"""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import sys
from pathlib import Path

from flaxres.cpu import settings
from flaxres.cpu.compilation_cache import enable_compilation_cache
from flaxres.cpu.detection import runs_on_cpu
from flaxres.errors import print_note

# Parameters of mallopt (malloc.h) with the effect of `settings.MALLOC_TUNABLES`, except huge pages.
MALLOC_PARAMETERS = (
    (-1, -1),  # M_TRIM_THRESHOLD: never returns memory
    (-2, 512 << 20),  # M_TOP_PAD
    (-4, 0),  # M_MMAP_MAX
    (-8, 1),  # M_ARENA_MAX
)

# Largest part of the heap that gets huge pages. It is only reserved until it is used.
MAX_HUGE_BYTES = 8 << 30
MADV_HUGEPAGE = 14  # madvise(2)

_sets_malloc = False  # True once `tune_running` has set the memory allocator


def tune_running() -> None:
    """Applies the settings of the commands to this process; on accelerators, only the cache.

    Sets XLA_FLAGS in the environment, JAX's cache of compiled programs, synchronous calls and the
    memory allocator, and starts to build the CPU kernels. Values that the user has set take
    precedence. Where JAX's backend runs already, XLA_FLAGS and the kind of calls cannot be changed,
    which a note says.
    """
    enable_compilation_cache()
    if not runs_on_cpu():
        return
    if not _backend_runs():
        settings.set_xla_flags()
        settings.execute_asynchronously(False)
    elif "XLA" in missing_settings():
        print_note(
            "flaxres.tune() comes too late for XLA's settings, because JAX has computed already; "
            "restart Python and call it first"
        )
    if sys.platform == "linux" and not _has_malloc_settings():
        _set_malloc()
    settings.start_builds()


def _set_malloc() -> None:
    """Makes malloc keep freed memory, and use huge pages for what it will still need."""
    global _sets_malloc
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):  # another C library than glibc
        return
    for parameter, value in MALLOC_PARAMETERS:
        libc.mallopt(parameter, value)
    _sets_malloc = True
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    # The heap grows by this block, which is never given back.
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    libc.free(libc.malloc(min(MAX_HUGE_BYTES, memory // 2)))
    if heap := re.search(r"^(\w+)-(\w+) .*\[heap\]$", _memory_map(), re.MULTILINE):
        start, end = (int(address, 16) for address in heap.groups())
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_HUGEPAGE)


def _memory_map() -> str:
    try:
        return Path("/proc/self/maps").read_text(errors="replace")
    except OSError:
        return ""


def missing_settings() -> str:
    """Returns which CPU settings this process lacks, or '' if it has them or needs none."""
    if not runs_on_cpu():
        return ""
    has_flag = settings.CONVOLUTION_FLAG in os.environ.get("XLA_FLAGS", "")
    missing = [] if has_flag or not settings.has_tested_version() else ["XLA"]
    if sys.platform == "linux" and not _has_malloc_settings():
        missing.append("memory allocation")
    return " and ".join(missing)


def environment_lines() -> list[str]:
    """Returns shell commands that set the environment of `flaxres.cpu.tune`."""
    return [
        f"export {name}={shlex.quote(value)}"
        for name, value in settings.environment(os.environ).items()
        if os.environ.get(name) != value
    ]


def _has_malloc_settings() -> bool:
    return _sets_malloc or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")


def _backend_runs() -> bool:
    """Returns True if JAX has started its backend, which reads XLA_FLAGS once."""
    if "jax" not in sys.modules:
        return False
    from jax._src import xla_bridge  # no public function tells it

    return bool(xla_bridge.backends_are_initialized())
