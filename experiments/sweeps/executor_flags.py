"""Flags of the executor, which `experiments.sweeps.launch` adopts, and its creation from them."""

from __future__ import annotations

import math
import os
from pathlib import Path

from absl import flags

from flaxres.errors import ConfigError
from flaxres.experiments.executors.base import Executor
from flaxres.experiments.executors.local import LocalExecutor

EXECUTOR = flags.DEFINE_enum(
    "executor", "local", ["local", "ray", "slurm"], "Executor of the runs."
)
WORKERS = flags.DEFINE_integer(
    "workers",
    None,
    "Maximum number of runs at a time (default: one per device), e.g. 2.",
    lower_bound=1,
)
CPUS_PER_RUN = flags.DEFINE_integer(
    "cpus_per_run", 1, "Number of CPU cores of each run.", lower_bound=1
)
GPUS_PER_RUN = flags.DEFINE_float(
    "gpus_per_run",
    0,
    "Number of GPUs of each run on Ray and SLURM; on Ray also a fraction, e.g. 0.25.",
    lower_bound=0,
)
RUNS_PER_GPU = flags.DEFINE_integer(
    "runs_per_gpu",
    1,
    "Number of runs that share each GPU of this machine, e.g. 4. Each gets an equal share of the "
    "memory.",
    lower_bound=1,
    upper_bound=48,  # clients of NVIDIA's MPS on one device (docs.nvidia.com/deploy/mps)
)
RAY_ADDRESS = flags.DEFINE_string(
    "ray_address",
    None,
    "HOST:PORT of the head of the Ray cluster (default: the cluster of this machine), e.g. "
    "10.0.0.1:6379.",
)
RAY_RESOURCES = flags.DEFINE_list(
    "ray_resources", [], "Further Ray resources of each process of a run, e.g. TPU=4."
)
PROCESSES_PER_RUN = flags.DEFINE_integer(
    "processes_per_run",
    1,
    "Number of processes of each run on Ray, each with the given resources.",
    lower_bound=1,
)
TIME_LIMIT = flags.DEFINE_integer(
    "time_limit",
    24 * 60,
    "Time limit of a SLURM job in minutes. A longer run is requeued and resumes.",
    lower_bound=1,
)
SLURM_PARTITION = flags.DEFINE_string(
    "slurm_partition", None, "SLURM partition (default: that of the cluster), e.g. gpu."
)
SLURM_OPTIONS = flags.DEFINE_list(
    "slurm_options", [], "Further options of sbatch, e.g. account=abc,mem=8G."
)

DEFAULT_SLURM_WORKERS = 256  # maximum number of SLURM jobs at a time


def make_executor(workdir: Path) -> Executor:
    """Creates the executor that the flags describe.

    Args:
      workdir: workdir of the sweep; SLURM keeps files of its jobs in its directory 'slurm'.

    Raises:
      UserError: a flag is invalid, or the cluster cannot be reached.
    """
    if EXECUTOR.value == "local":
        return LocalExecutor(
            workers=WORKERS.value,
            cpus_per_run=CPUS_PER_RUN.value,
            runs_per_gpu=RUNS_PER_GPU.value,
        )
    if (runs_per_gpu := RUNS_PER_GPU.value) != 1:
        hint = {
            "ray": f"on Ray, --gpus_per_run={1 / runs_per_gpu:.2g} lets runs share a GPU",
            "slurm": "SLURM can share GPUs that the cluster divides: --slurm_options=gres=shard:1",
        }
        raise ConfigError(
            f"--runs_per_gpu={runs_per_gpu} applies to --executor=local, got "
            f"--executor={EXECUTOR.value}; {hint[EXECUTOR.value]}"
        )
    if EXECUTOR.value == "ray":
        from flaxres.experiments.executors.ray import RayExecutor

        try:
            resources = {name: float(value) for name, value in _parse_pairs(RAY_RESOURCES)}
            if not all(0 <= value < math.inf for value in resources.values()):
                raise ValueError
        except ValueError:
            raise ConfigError(
                f"--ray_resources must be NAME=NUMBER,..., got {RAY_RESOURCES.value}"
            ) from None
        return RayExecutor(
            address=RAY_ADDRESS.value,
            cpus_per_task=CPUS_PER_RUN.value,
            gpus_per_task=GPUS_PER_RUN.value,
            resources=resources,
            processes_per_run=PROCESSES_PER_RUN.value,
        )
    from flaxres.experiments.executors.slurm import SlurmExecutor

    if not GPUS_PER_RUN.value.is_integer():
        raise ConfigError(
            f"--gpus_per_run must be a whole number with --executor=slurm, got {GPUS_PER_RUN.value}"
        )
    return SlurmExecutor(
        folder=workdir.absolute() / "slurm",
        time_limit_minutes=TIME_LIMIT.value,
        cpus_per_task=CPUS_PER_RUN.value,
        gpus_per_task=int(GPUS_PER_RUN.value),
        partition=SLURM_PARTITION.value,
        additional=dict(_parse_pairs(SLURM_OPTIONS)),
        max_parallel=WORKERS.value or DEFAULT_SLURM_WORKERS,
    )


def _parse_pairs(flag: flags.FlagHolder[list[str]]) -> list[tuple[str, str]]:
    """Parses a flag of the form NAME=VALUE,....

    Raises:
      ConfigError: an item has no value.
    """
    pairs = [item.partition("=") for item in flag.value]
    if any(not value for _, _, value in pairs):
        raise ConfigError(f"--{flag.name} must be NAME=VALUE,..., got {flag.value}")
    return [(name, value) for name, _, value in pairs]


def shared_directory() -> str | None:
    """Returns a directory for temporary files that all machines of a cluster can read.

    With the local executor it is None, which stands for the default of `tempfile`.
    """
    return None if EXECUTOR.value == "local" else os.getcwd()
