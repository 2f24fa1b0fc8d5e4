"""What makes these nets fast on a CPU; without effect on accelerators.

`settings` sets XLA's flags and the allocator before the process starts to compute; `build` compiles
the sources in cc/ with the user's C++ compiler, `library` loads the result, and `kernels` puts its
functions in the place of XLA's operations.
"""

from flaxres.cpu.settings import runs_on_cpu, set_xla_flags, tune

__all__ = ["runs_on_cpu", "set_xla_flags", "tune"]
