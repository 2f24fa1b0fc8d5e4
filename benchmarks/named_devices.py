"""Devices that this machine does not have, by name: XLA compiles for them without executing.

`named_devices('v5e:8')` returns eight TPU v5e chips, `named_devices('h100:1')` one NVIDIA H100. The
compilers are in the wheels of `requirements-accelerators.txt`; no driver and no device is needed.
`prepare_jax` must be called before JAX is imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flaxres.errors import ConfigError, UserError

if TYPE_CHECKING:
    import jax

REQUIREMENTS = "requirements-accelerators.txt"
# A process that compiles for a TPU runs on the CPU. Without these variables libtpu asks a metadata
# server for the TPU of this machine, and it ends a second process that loads it.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any type that libtpu knows
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# Messages that are not errors stay off the terminal.
LOG_LEVELS = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_LOG_DIR": "disabled",
}
# XLA's description of an H100 with SXM5 (GpuTargetConfigProto), from its file
# xla/backends/gpu/target_config/specs/h100_sxm.txtpb. 85 GB are 80 GiB without reserved memory.
H100_TARGET = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84942979072
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of device.

    Attributes:
      platform: 'tpu' or 'cuda'.
      memory_bytes: memory of a device.
      topologies: shapes of TPU slices in ascending size, of which the first with enough chips is
        used; () for GPUs.
    """

    platform: str
    memory_bytes: int
    topologies: tuple[str, ...] = ()

    @property
    def max_devices(self) -> int:
        """Largest number of devices."""
        return _num_chips(self.topologies[-1]) if self.topologies else MAX_GPUS


def _num_chips(topology: str) -> int:
    return math.prod(map(int, topology.split("x")))


GPUS_IN_A_MACHINE, MAX_GPUS = 8, 256
# Memory and topologies of TPUs: cloud.google.com/tpu/docs/v4, v5e, v5p and v6e.
KINDS = {
    "v4": Kind("tpu", 32 * 2**30, ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4")),
    "v5e": Kind("tpu", 16 * 2**30, ("2x2", "2x4", "4x4", "4x8", "8x8")),
    "v5p": Kind("tpu", 95 * 2**30, ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4")),
    "v6e": Kind("tpu", 32 * 2**30, ("2x2", "2x4", "4x4", "4x8", "8x8")),
    "h100": Kind("cuda", 84_942_979_072),
}


def prepare_jax() -> None:
    """Imports JAX with the environment variables of a process that compiles for other devices."""
    os.environ.update(ENVIRONMENT)
    for name, level in LOG_LEVELS.items():
        os.environ.setdefault(name, level)
    with quiet_compilers():  # JAX loads libraries of its plugins, which report missing devices
        importlib.import_module("jax")


@contextlib.contextmanager
def quiet_compilers() -> Iterator[None]:
    """Keeps messages of XLA and its plugins off standard error, unless an error occurs.

    Some are written before XLA reads a log level.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except UserError:
            raise
        except BaseException:
            log.seek(0)
            os.write(terminal, log.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)


def parse_name(name: str) -> tuple[Kind, int]:
    """Parses the name of devices, such as 'v5e:8'.

    Returns:
      The kind, and the number of devices.

    Raises:
      ConfigError: there are no such devices.
    """
    match = re.fullmatch(r"(\w+):([1-9]\d*)", name)
    kind = KINDS.get(match[1]) if match else None
    if kind is None or match is None:
        raise ConfigError(
            f"--devices must be a kind and a number, such as v5e:8 or h100:1, with one of the "
            f"kinds {', '.join(KINDS)}; got {name!r}"
        )
    count = int(match[2])
    if count > kind.max_devices:
        raise ConfigError(f"--devices must be at most {match[1]}:{kind.max_devices}, got {name!r}")
    return kind, count


def missing_wheels(name: str) -> str | None:
    """Returns the wheels that are missing to compile for devices and how to get them, or None."""
    kind, _ = parse_name(name)
    if kind.platform == "tpu":
        missing = importlib.util.find_spec("libtpu") is None
        wheels = "libtpu"
    else:
        plugins = importlib.util.find_spec("jax_plugins")
        paths = (plugins and plugins.submodule_search_locations) or []
        missing = not any(os.path.isdir(os.path.join(path, "xla_cuda12")) for path in paths)
        wheels = "jax-cuda12-plugin and jax-cuda12-pjrt"
    if not missing:
        return None
    return (
        f"{wheels}; install {REQUIREMENTS} in an environment of its own (make test-accelerators "
        "creates .venv/accelerators)"
    )


def named_devices(name: str) -> list[jax.Device]:
    """Returns devices that only a compiler knows.

    Args:
      name: kind and number of the devices, such as 'v5e:8'.

    Raises:
      ConfigError: there are no such devices.
      UserError: the wheels with their compiler are not installed.
    """
    from jax.experimental import topologies

    kind, count = parse_name(name)
    if missing := missing_wheels(name):
        raise UserError(f"compiling for {name} needs {missing}")
    if kind.platform == "tpu":
        shape = next(shape for shape in kind.topologies if _num_chips(shape) >= count)
        topology = topologies.get_topology_desc(
            platform="tpu",
            topology_name=f"{name.partition(':')[0]}:{shape}",
            chips_per_host_bounds=(2, 4, 1) if shape == "2x4" else (2, 2, 1),
        )
    else:
        hosts = -(-count // GPUS_IN_A_MACHINE)
        topology = topologies.get_topology_desc(
            platform="cuda",
            topology_name=name.partition(":")[0],
            topology=f"1x{hosts}x{min(count, GPUS_IN_A_MACHINE)}",
            target_config=H100_TARGET,
        )
    return list(topology.devices)[:count]
