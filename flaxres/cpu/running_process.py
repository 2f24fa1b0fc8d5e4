"""CPU settings of a process that is running already: a script, a notebook, an application.

The commands restart themselves with `flaxres.cpu.tune`, which others must not do. `tune_running`
changes what can be changed before JAX computes; `environment_lines` are shell commands for all
settings, to be run before Python starts.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import sys

from flaxres.cpu import settings
from flaxres.cpu.compilation_cache import enable_compilation_cache
from flaxres.cpu.detection import runs_on_cpu
from flaxres.errors import print_note

# Parameters of mallopt (malloc.h) with the effect of `settings.MALLOC_TUNABLES`. Huge pages have no
# parameter.
MALLOC_PARAMETERS = (
    (-1, -1),  # M_TRIM_THRESHOLD: never returns memory
    (-2, 512 << 20),  # M_TOP_PAD
    (-4, 0),  # M_MMAP_MAX
    (-8, 1),  # M_ARENA_MAX
)

_sets_malloc = False  # True once `tune_running` has set the memory allocator


def tune_running() -> None:
    """Applies the settings of the commands to this process; on accelerators, only the cache.

    Sets XLA_FLAGS in the environment, JAX's cache of compiled programs, synchronous calls and the
    memory allocator, and starts to build the CPU kernels. Values that the user has set take
    precedence. Where JAX's backend runs already, XLA_FLAGS and the kind of calls cannot be changed,
    which a note says.
    """
    global _sets_malloc
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
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt and not _has_malloc_settings():
        for parameter, value in MALLOC_PARAMETERS:
            mallopt(parameter, value)
        _sets_malloc = True
    settings.start_builds()


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
