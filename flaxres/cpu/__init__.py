"""Fast training on a CPU: XLA settings, memory allocation, kernels and the compilation cache.

Nothing here affects training on accelerators. `detection` predicts whether JAX will run on the CPU.
`settings` configures XLA and the memory allocator before JAX starts. `build` compiles the kernels
in cc/ with the user's C++ compiler, `library` loads them, and `kernels` calls them instead of XLA's
operations. `trusted` checks that nobody else can write what is loaded.

Imported by `flaxres.parallel`, `flaxres.data`, `flaxres.models` and above; imports only
`flaxres.errors` and `flaxres.files`.
"""

from flaxres.cpu.detection import runs_on_cpu
from flaxres.cpu.settings import (
    execute_asynchronously,
    release_free_memory,
    report_missing_settings,
    set_xla_flags,
    start_build,
    tune,
)

__all__ = [
    "execute_asynchronously",
    "release_free_memory",
    "report_missing_settings",
    "runs_on_cpu",
    "set_xla_flags",
    "start_build",
    "tune",
]
