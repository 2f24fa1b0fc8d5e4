"""Prediction of whether JAX will run on the CPU, before JAX is imported.

If unsure, it assumes an accelerator: a plugin for an accelerator aborts the process if it meets XLA
flags for the CPU that it does not know.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pkgutil
from pathlib import Path

# Patterns of device files. JAX itself skips its CUDA plugin on a machine that has none of
# /dev/nvidia0, /dev/nvidiactl and /dev/dxg (jax/_src/hardware_utils.py).
NVIDIA_FILES = ("dev/nvidia*", "dev/dxg")
AMD_FILES = ("dev/kfd", "sys/class/kfd/kfd/topology/nodes/*", "dev/dxg")
# First pattern: up to TPU v4; second: TPU v5 and newer.
TPU_FILES = ("dev/accel[0-9]*", "dev/vfio/[0-9]*")

GOOGLE_VENDOR = "0x1ae0"  # PCI vendor, as in jax/_src/hardware_utils.py
# Google's virtual machines without a TPU have disks and network cards of the same vendor; these are
# their PCI base classes.
STORAGE_AND_NETWORK = ("0x01", "0x02")

# Variables that describe a TPU to JAX. TPU_SKIP_MDS_QUERY and TPU_LIBRARY_PATH are not listed,
# because JAX sets them on every machine and child processes inherit them.
TPU_VARIABLES = (
    "JAX_FORCE_TPU_INIT",
    "TPU_ACCELERATOR_TYPE",
    "TPU_NAME",
    "TPU_TOPOLOGY",
    "TPU_VISIBLE_CHIPS",
    "TPU_WORKER_HOSTNAMES",
    "TPU_WORKER_ID",
)


def runs_on_cpu(root: Path = Path("/")) -> bool:
    """Returns True if JAX will run on the CPU.

    If JAX_PLATFORMS is set, its first available platform decides. Otherwise JAX runs on the CPU,
    unless the machine has a device for which a plugin is installed.

    Args:
      root: directory that contains dev and sys.
    """
    if platforms := os.environ.get("JAX_PLATFORMS"):
        available = [
            name for name in platforms.split(",") if name != "cuda" or _exists(root, NVIDIA_FILES)
        ]
        return available[:1] == ["cpu"]  # the first one is JAX's default
    if os.environ.get("PJRT_NAMES_AND_LIBRARY_PATHS"):  # names plugins by path
        return False
    return not (_may_use_tpu(root) or any(_may_use(name, root) for name in plugin_names()))


def _may_use_tpu(root: Path) -> bool:
    """Returns True if JAX finds the TPU library and could find a TPU."""
    if not (importlib.util.find_spec("libtpu") or os.environ.get("TPU_LIBRARY_PATH")):
        return False
    if any(os.environ.get(name) for name in TPU_VARIABLES) or _exists(root, TPU_FILES):
        return True
    return any(
        _read(path) == GOOGLE_VENDOR
        and not _read(path.with_name("class")).startswith(STORAGE_AND_NETWORK)
        for path in root.glob("sys/bus/pci/devices/*/vendor")
    )


def plugin_names() -> set[str]:
    """Returns the module names of installed plugins.

    Finds them as JAX does, in the package `jax_plugins` and by entry points.
    """
    package = importlib.util.find_spec("jax_plugins")
    paths = (package and package.submodule_search_locations) or []
    entry_points = importlib.metadata.entry_points(group="jax_plugins")
    names = {module.name for module in pkgutil.iter_modules(list(paths))}
    return names | {entry_point.value.rpartition(".")[2] for entry_point in entry_points}


def _may_use(plugin: str, root: Path) -> bool:
    """Returns True if a plugin could find a device; True for an unknown plugin."""
    if plugin.startswith("xla_cuda"):
        return _exists(root, NVIDIA_FILES)
    if plugin.startswith("xla_rocm"):
        return _exists(root, AMD_FILES)
    return True


def _exists(root: Path, patterns: tuple[str, ...]) -> bool:
    return any(any(root.glob(pattern)) for pattern in patterns)


def _read(path: Path) -> str:
    """Returns the text of a file in /sys, or '' if it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
