"""Runs on this machine: one process for each device, or for each so many CPU cores."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from experiments.executors.base import End, Job, Task
from flaxres.cpu import runs_on_cpu
from flaxres.cpu.processor import available_cores
from flaxres.errors import ConfigError, UserError

# Lists what JAX finds, in a process of its own: JAX here would keep the memory of all devices.
PROBE = """
import json, jax
print(json.dumps([jax.default_backend(), [d.id for d in jax.local_devices()]]))
"""
PROBE_TIMEOUT = 300  # seconds; a machine with many devices takes a while


@dataclasses.dataclass(frozen=True)
class Slot:
    """What one worker may use.

    Attributes:
      name: for messages.
      environment: variables that hide the other devices from it.
      cores: CPU cores that it keeps to; empty for all.
    """

    name: str
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cores: frozenset[int] = frozenset()


def find_slots(cpus_per_run: int) -> list[Slot]:
    """The devices of this machine; on a CPU, groups of cores.

    Raises:
      ConfigError: not even one group has as many cores.
      UserError: JAX finds no device.
    """
    if runs_on_cpu():
        return cpu_slots(available_cores(), cpus_per_run)
    probe = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_TIMEOUT
    )
    if probe.returncode:
        last = (probe.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"JAX finds no device on this machine: {last}")
    platform, ids = json.loads(probe.stdout.splitlines()[-1])
    if platform == "cpu":
        return cpu_slots(available_cores(), cpus_per_run)
    return device_slots(platform, ids, os.environ)


def cpu_slots(cores: Sequence[int], cpus_per_run: int) -> list[Slot]:
    """Groups of `cpus_per_run` cores; what is left over stays idle.

    Raises:
      ConfigError: there are not as many.
    """
    if not 1 <= cpus_per_run <= len(cores):
        raise ConfigError(
            f"cpus_per_run must be from 1 to {len(cores)}, the CPU cores here, got {cpus_per_run}"
        )
    groups = zip(*[iter(cores)] * cpus_per_run, strict=False)
    hide = {"JAX_PLATFORMS": "cpu"}
    return [Slot(f"cpu {'+'.join(map(str, g))}", hide, frozenset(g)) for g in groups]


def device_slots(platform: str, ids: Sequence[int], environment: Mapping[str, str]) -> list[Slot]:
    """One slot for each accelerator.

    Args:
      platform: as JAX calls it, e.g. cuda, gpu, rocm or tpu.
      ids: JAX's numbers of the devices.
      environment: may say already which devices there are.
    """
    if platform == "tpu":  # one chip a process
        one = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
        return [Slot(f"tpu {i}", {**one, "TPU_VISIBLE_CHIPS": str(i)}) for i in ids]
    # JAX numbers the devices that are visible here from 0; those of a child need their own names.
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        if environment.get(variable):
            names = environment[variable].split(",")
            return [Slot(f"{platform} {names[i]}", {variable: names[i]}) for i in ids]
    variable = "HIP_VISIBLE_DEVICES" if platform == "rocm" else "CUDA_VISIBLE_DEVICES"
    return [Slot(f"{platform} {i}", {variable: str(i)}) for i in ids]


class LocalJob(Job):
    """A child process and its slot."""

    def __init__(self, process: subprocess.Popen, slot: Slot, free: list[Slot]):
        self._process, self._slot, self._free = process, slot, free
        self._end: End | None = None

    def started(self) -> bool:
        """Always."""
        return True

    def poll(self) -> End | None:
        """How it ended; the slot is free again then."""
        code = self._process.poll()
        if code is not None and self._end is None:
            self._end = End(code)
            self._free.append(self._slot)
        return self._end

    def stop(self) -> None:
        """SIGTERM."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()


class LocalExecutor:
    """One process for each slot.

    Attributes:
      capacity: number of workers.
      slots: what each of them may use.
    """

    def __init__(self, *, workers: int | None = None, cpus_per_run: int = 1):
        """Finds the devices.

        Args:
          workers: how many runs at the same time; None for as many as there are slots.
          cpus_per_run: where runs are on the CPU.

        Raises:
          ConfigError: fewer than one, or more than there are slots.
          UserError: JAX finds no device.
        """
        slots = find_slots(cpus_per_run)
        if workers is not None and not 1 <= workers <= len(slots):
            raise ConfigError(
                f"workers must be from 1 to {len(slots)}, the devices here "
                f"({', '.join(slot.name for slot in slots)}), got {workers}"
            )
        self.slots = slots[:workers]
        self.capacity = len(self.slots)
        self._free = list(self.slots)

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, tasks: Sequence[Task]) -> list[LocalJob]:
        """Starts a process for each task, in a free slot."""
        jobs = []
        for task in tasks:
            slot = self._free.pop(0)
            process = task.start(slot.environment)
            if slot.cores and hasattr(os, "sched_setaffinity"):
                # Python has only just started there; the threads that JAX makes later inherit it.
                os.sched_setaffinity(process.pid, slot.cores)
            jobs.append(LocalJob(process, slot, self._free))
        return jobs
