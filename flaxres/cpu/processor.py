"""The processor of this machine: its model, its instruction set, and the available cores."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# Starts of the names of instruction sets that compiled kernels use.
VECTOR_INSTRUCTIONS = ("avx", "amx", "fma", "sse4_2", "asimd", "sve", "neon")
CPUINFO = Path("/proc/cpuinfo")  # exists only on Linux


def available_cores() -> list[int]:
    """Returns the numbers of the CPU cores that this process may use, in increasing order."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def processor_model() -> str:
    """Returns the model name of the processor, or its architecture if the name is unknown."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """Returns the vector instruction sets of the processor, such as 'avx2', as Linux lists them."""
    lines = [line for line in _cpuinfo() if line.startswith(("flags", "Features"))]
    names = lines[0].partition(":")[2].split() if lines else []
    return sorted(name for name in names if name.startswith(VECTOR_INSTRUCTIONS))


def processor_fingerprint() -> str:
    """Returns a text that changes with the processor's model or instruction set.

    Machines with the same fingerprint can share compiled code.
    """
    lines = _cpuinfo()
    if not lines:
        return f"{platform.machine()} {platform.processor()}"
    names = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(names)}))


def _cpuinfo() -> list[str]:
    """Returns the lines of /proc/cpuinfo, or an empty list if there is no such file."""
    try:
        return CPUINFO.read_text().splitlines()
    except OSError:
        return []
