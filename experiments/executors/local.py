"""Executor for this machine: one process per accelerator, or per group of CPU cores."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from experiments.executors.base import EndedJob, Executor, ExitStatus, Job, Task
from flaxres.cpu import runs_on_cpu
from flaxres.cpu.processor import available_cores
from flaxres.errors import ConfigError, UserError

# Lists the devices in a separate process, because JAX would reserve their memory in this one.
PROBE = """
import json, jax
print(json.dumps([jax.default_backend(), [d.id for d in jax.local_devices()]]))
"""
PROBE_TIMEOUT = 300  # seconds; JAX needs long to find many devices


@dataclasses.dataclass(frozen=True)
class Slot:
    """The resources of one worker.

    Attributes:
      name: name for messages, such as 'cpu 0+1' or 'gpu 3'.
      environment: variables that hide the other devices.
      cores: CPU cores that the worker is bound to; empty for all cores.
    """

    name: str
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cores: frozenset[int] = frozenset()


def find_slots(cpus_per_run: int) -> list[Slot]:
    """Returns a slot for each accelerator of this machine, otherwise for each group of CPU cores.

    Args:
      cpus_per_run: number of cores in a group.

    Raises:
      ConfigError: the machine has fewer than `cpus_per_run` cores.
      UserError: JAX finds no device.
    """
    if runs_on_cpu():
        return cpu_slots(available_cores(), cpus_per_run)
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
    if platform == "cpu":
        return cpu_slots(available_cores(), cpus_per_run)
    return device_slots(platform, ids, os.environ)


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


def device_slots(platform: str, ids: Sequence[int], environment: Mapping[str, str]) -> list[Slot]:
    """Returns a slot for each accelerator.

    Args:
      platform: platform name in JAX, such as cuda, gpu, rocm or tpu.
      ids: device ids in JAX.
      environment: variables of this process, which may restrict the visible devices.
    """
    if platform == "tpu":  # one chip per process
        one_chip = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
        return [Slot(f"tpu {i}", {**one_chip, "TPU_VISIBLE_CHIPS": str(i)}) for i in ids]
    # JAX numbers the visible devices from 0; workers need their names in the variable.
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        if environment.get(variable):
            names = environment[variable].split(",")
            return [Slot(f"{platform} {names[i]}", {variable: names[i]}) for i in ids]
    variable = "HIP_VISIBLE_DEVICES" if platform == "rocm" else "CUDA_VISIBLE_DEVICES"
    return [Slot(f"{platform} {i}", {variable: str(i)}) for i in ids]


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
    """Runs one process per slot.

    Attributes:
      capacity: number of workers.
      slots: resources of each worker.
    """

    capacity: int

    def __init__(self, *, workers: int | None = None, cpus_per_run: int = 1):
        """Finds the devices of this machine.

        Args:
          workers: number of runs at the same time; None for one per slot.
          cpus_per_run: CPU cores of each run, if runs are on the CPU.

        Raises:
          ConfigError: `workers` is less than 1 or exceeds the number of slots.
          UserError: JAX finds no device.
        """
        slots = find_slots(cpus_per_run)
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
            slot = self._free_slots.pop(0)
            try:
                process = task.start(slot.environment)
            except OSError as error:
                self._free_slots.insert(0, slot)
                reason = f"{task.log} cannot be written ({error.strerror})"
                jobs.append(EndedJob(ExitStatus(UserError.exit_code, reason)))
                continue
            if slot.cores and hasattr(os, "sched_setaffinity"):
                # The process is still importing: threads that JAX starts later inherit the cores.
                os.sched_setaffinity(process.pid, slot.cores)
            jobs.append(LocalJob(process, slot, self._free_slots))
        return jobs
