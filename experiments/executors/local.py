"""Executor for this machine: processes on its accelerators, or on groups of its CPU cores."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from flaxres.cpu import runs_on_cpu
from flaxres.cpu.processor import available_cores
from flaxres.errors import ConfigError, UserError
from flaxres.experiments.executors.base import EndedJob, Executor, ExitStatus, Job, Task
from flaxres.experiments.executors.gpu_memory import memory_variables

# Lists the devices in a separate process, because JAX would reserve their memory in this one.
PROBE = """
import json, jax
print(json.dumps([jax.default_backend(), [d.id for d in jax.local_devices()]]))
"""
PROBE_TIMEOUT = 300  # seconds; JAX needs long to find many devices
GPU_PLATFORMS = ("gpu", "cuda", "rocm")  # names of JAX


@dataclasses.dataclass(frozen=True)
class Slot:
    """The resources of one worker.

    Attributes:
      name: name for messages, such as 'cpu 0+1', 'gpu 3' or 'gpu 3 (run 1 of 4)'.
      environment: variables that hide the other devices, and limit the share of a GPU's memory.
      cores: CPU cores that the worker is bound to; empty for all cores.
    """

    name: str
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cores: frozenset[int] = frozenset()


def find_slots(cpus_per_run: int, runs_per_gpu: int = 1) -> list[Slot]:
    """Returns the slots of each accelerator of this machine, otherwise of its CPU cores.

    Args:
      cpus_per_run: number of cores of a slot on the CPU.
      runs_per_gpu: number of slots on each GPU.

    Raises:
      ConfigError: the machine has fewer than `cpus_per_run` cores, or no GPU that runs can share.
      UserError: JAX finds no device.
    """
    platform, ids = ("cpu", []) if runs_on_cpu() else list_devices()
    if runs_per_gpu != 1 and platform not in GPU_PLATFORMS:
        hint = {
            "cpu": "--workers and --cpus_per_run divide a CPU",
            "tpu": "a TPU chip serves one process at a time",
        }.get(platform, "only NVIDIA and AMD GPUs can be shared")
        raise ConfigError(
            f"runs_per_gpu must be 1 on a machine without GPUs, got {runs_per_gpu}; {hint}"
        )
    if platform == "cpu":
        return cpu_slots(available_cores(), cpus_per_run)
    return device_slots(platform, ids, os.environ, runs_per_gpu)


def list_devices() -> tuple[str, list[int]]:
    """Returns the platform that JAX uses on this machine, and the ids of its local devices.

    Raises:
      UserError: JAX finds no device.
    """
    try:
        probe = subprocess.run(
            [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"JAX does not list its devices within {PROBE_TIMEOUT} s") from None
    if probe.returncode or not probe.stdout.strip():
        last_line = (probe.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"JAX finds no device on this machine: {last_line}")
    platform, ids = json.loads(probe.stdout.splitlines()[-1])
    return platform, ids


def cpu_slots(cores: Sequence[int], cpus_per_run: int) -> list[Slot]:
    """Divides CPU cores into groups of `cpus_per_run`; remaining cores stay idle.

    Raises:
      ConfigError: there are fewer than `cpus_per_run` cores.
    """
    if not 1 <= cpus_per_run <= len(cores):
        raise ConfigError(
            f"cpus_per_run must be from 1 to {len(cores)} (CPU cores of this machine), "
            f"got {cpus_per_run}"
        )
    groups = zip(*[iter(cores)] * cpus_per_run, strict=False)
    environment = {"JAX_PLATFORMS": "cpu"}
    return [
        Slot(f"cpu {'+'.join(map(str, group))}", environment, frozenset(group)) for group in groups
    ]


def device_slots(
    platform: str, ids: Sequence[int], environment: Mapping[str, str], runs_per_gpu: int = 1
) -> list[Slot]:
    """Returns the slots of each accelerator; those of different devices come first.

    Args:
      platform: platform name in JAX, such as cuda, gpu, rocm or tpu.
      ids: device ids in JAX.
      environment: variables of this process, which may restrict the visible devices and the memory.
      runs_per_gpu: number of slots on each GPU.
    """
    if platform == "tpu":  # one chip per process
        one_chip = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
        return [Slot(f"tpu {i}", {**one_chip, "TPU_VISIBLE_CHIPS": str(i)}) for i in ids]
    variable = "HIP_VISIBLE_DEVICES" if platform == "rocm" else "CUDA_VISIBLE_DEVICES"
    names = list(map(str, ids))
    # JAX numbers the visible devices from 0; workers need their names in the variable.
    for restricted in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        if environment.get(restricted):
            variable = restricted
            names = [environment[restricted].split(",")[i] for i in ids]
            break
    memory = memory_variables(1 / runs_per_gpu, environment)
    return [
        Slot(
            f"{platform} {name}" + f" (run {run + 1} of {runs_per_gpu})" * (runs_per_gpu > 1),
            {variable: name, **memory},
        )
        for run in range(runs_per_gpu)
        for name in names
    ]


class LocalJob(Job):
    """A child process that occupies a slot."""

    def __init__(self, process: subprocess.Popen[bytes], slot: Slot, free_slots: list[Slot]):
        """Watches a process.

        Args:
          process: process of the run.
          slot: slot that the process occupies.
          free_slots: list to which the slot is returned when the process has ended.
        """
        self._process = process
        self._slot = slot
        self._free_slots = free_slots
        self._exit_status: ExitStatus | None = None

    def has_started(self) -> bool:
        """Returns True: a local job has no queue."""
        return True

    def poll(self) -> ExitStatus | None:
        """Returns how the process ended, or None while it runs; releases the slot at its end."""
        code = self._process.poll()
        if code is not None and self._exit_status is None:
            self._exit_status = ExitStatus(code)
            self._free_slots.append(self._slot)
        return self._exit_status

    def stop(self) -> None:
        """Sends SIGTERM, unless the process has ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL and waits for the end of the process."""
        self._process.kill()
        self._process.wait()


class LocalExecutor(Executor):
    """Runs one process per slot, on the first slots that are free.

    Attributes:
      capacity: number of workers.
      slots: resources of each worker.
    """

    capacity: int

    def __init__(self, *, workers: int | None = None, cpus_per_run: int = 1, runs_per_gpu: int = 1):
        """Finds the devices of this machine.

        Args:
          workers: number of runs at the same time; None for one per slot.
          cpus_per_run: CPU cores of each run, if runs are on the CPU.
          runs_per_gpu: number of slots on each GPU.

        Raises:
          ConfigError: `workers` is less than 1 or exceeds the number of slots, or `runs_per_gpu` is
            not 1 and there is no GPU.
          UserError: JAX finds no device.
        """
        slots = find_slots(cpus_per_run, runs_per_gpu)
        if workers is not None and not 1 <= workers <= len(slots):
            raise ConfigError(
                f"workers must be from 1 to {len(slots)} (devices of this machine: "
                f"{', '.join(slot.name for slot in slots)}), got {workers}"
            )
        self.slots = slots[:workers]
        self.capacity = len(self.slots)
        self._free_slots = list(self.slots)

    def submit(self, tasks: Sequence[Task]) -> list[Job]:
        """Starts each task in a free slot."""
        jobs: list[Job] = []
        for task in tasks:
            slot = min(self._free_slots, key=self.slots.index)
            self._free_slots.remove(slot)
            try:
                process = task.start(slot.environment)
            except OSError as error:
                self._free_slots.append(slot)
                reason = f"{task.log} cannot be written ({error.strerror})"
                jobs.append(EndedJob(ExitStatus(UserError.exit_code, reason)))
                continue
            if slot.cores and hasattr(os, "sched_setaffinity"):
                # The process is still importing: threads that JAX starts later inherit the cores.
                os.sched_setaffinity(process.pid, slot.cores)
            jobs.append(LocalJob(process, slot, self._free_slots))
        return jobs
