"""Multi-process runs: startup, and agreement between the processes of one run.

Every process runs the same program on its own shard of each batch. Only process 0 writes metrics
and prints; all processes take part in checkpoints.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from flaxres.errors import ConfigError, DistributedError, UserError, counted, one_line, printable

AUTO = "auto"  # JAX detects the processes: SLURM, Open MPI, Kubernetes, TPU pods
CONNECT_TIMEOUT = 300  # seconds for all processes to reach the coordinator
EXIT_TIMEOUT = 5  # seconds from an error to the end of a process
MAX_PROCESSES = 100_000
SETTING_NAMES = ("coordinator_address", "num_processes", "process_id")

# Values of SETTING_NAMES.
Settings = tuple[str | None, int | None, int | None]


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = CONNECT_TIMEOUT,
) -> None:
    """Connects this process to the others of its run, if the arguments or the environment ask to.

    Without arguments the environment decides: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID (set by a sweep on Ray), a SLURM step of several tasks, or a TPU pod. Must be
    called before JAX computes anything.

    Args:
      coordinator_address: HOST:PORT of process 0, or 'auto'.
      num_processes: number of processes of the run.
      process_id: index of this process, from 0.
      timeout: seconds to wait for the other processes.

    Raises:
      ConfigError: only some of the arguments are given, or their values are invalid.
      DistributedError: the other processes could not be reached.
    """
    # The program that started this process, such as Ray Train, may have connected it.
    if jax.distributed.is_initialized():
        return
    settings: Settings | None = (coordinator_address, num_processes, process_id)
    if settings == (None, None, None):
        settings = settings_from_environment(os.environ)
    if settings is None:
        return
    address, count, index = settings
    arguments: dict[str, Any] = {}
    if address != AUTO:
        if (
            address is None
            or count is None
            or index is None
            or not _is_valid(address, count, index)
        ):
            raise ConfigError(
                "a run of several processes needs coordinator_address HOST:PORT with a port from 1 "
                f"to 65535, num_processes N (at most {MAX_PROCESSES:,}) and process_id from 0 to "
                f"N - 1, got {address!r}, {count!r} and {index!r}"
            )
        if index > 0:
            _wait_for_coordinator(address, index, timeout)
        else:
            message = (
                f"waiting at {address} for {counted(count - 1, 'more process', 'more processes')}"
            )
            print(printable(message), file=sys.stderr, flush=True)
        arguments = dict(zip(SETTING_NAMES, settings, strict=True))
    if _has_node_to_itself(os.environ):
        arguments["local_device_ids"] = ()  # all of them; JAX would use one GPU for each task
    # JAX's preemption service would replace the SIGTERM handler of `flaxres.run.preemption`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(initialization_timeout=timeout, **arguments)
    except Exception as error:  # JAX raises many types
        raise DistributedError(
            f"could not join the other processes of the run: {one_line(error)}"
        ) from error


def _has_node_to_itself(environment: Mapping[str, str]) -> bool:
    """Returns True if this process is the only task of its SLURM step on its node."""
    if environment.get("JAX_LOCAL_DEVICE_IDS"):
        return False
    names = ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES")
    num_tasks, num_nodes = (environment.get(name) for name in names)
    return num_tasks is not None and num_tasks == num_nodes


def _is_valid(address: str, num_processes: int, process_id: int) -> bool:
    host, _, port = address.rpartition(":")
    is_bracketed = host.startswith("[") == host.endswith("]")  # as in [::1]:1234
    is_host = bool(host) and is_bracketed and not re.search(r"[\s/]", host)
    is_port = re.fullmatch(r"[0-9]{1,5}", port) is not None and 1 <= int(port) < 2**16
    return is_host and is_port and 0 <= process_id < num_processes <= MAX_PROCESSES


def _wait_for_coordinator(address: str, process_id: int, timeout: int) -> None:
    """Waits until process 0 listens. If it never did, JAX would end this process with a dump."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline or isinstance(error, ValueError):
                raise DistributedError(
                    f"process {process_id} could not reach process 0 at {address} within "
                    f"{timeout} s ({one_line(error)}); check that process 0 is running and that "
                    "the address is correct"
                ) from error
        time.sleep(0.2)


def settings_from_environment(environment: Mapping[str, str]) -> Settings | None:
    """Returns the address, the number of processes and the process id that an environment sets.

    Args:
      environment: environment variables, such as `os.environ`.

    Returns:
      The settings, ('auto', None, None) if JAX detects them, or None for a single process.

    Raises:
      ConfigError: only some of JAX's variables are set, or one of them is not a number.
    """
    variables = [f"JAX_{name.upper()}" for name in SETTING_NAMES]
    values = [environment.get(variable) for variable in variables]
    if any(values):
        address, count, index = values
        try:
            return address, int(count or ""), int(index or "")
        except ValueError:
            shown = ", ".join(
                f"{name}={value}" for name, value in zip(variables, values, strict=True)
            )
            raise ConfigError(
                "a run of several processes needs an address and two numbers in the environment, "
                f"got {shown}; set all three variables"
            ) from None
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return AUTO, None, None
    pod_variables = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
    if any("," in environment.get(name, "") for name in pod_variables):
        return AUTO, None, None
    return None


def is_main_process() -> bool:
    """Returns True in the process that writes metrics and prints."""
    return jax.process_index() == 0


def print_to_stderr(message: str) -> None:
    """Prints a line to standard error, in the main process only."""
    if is_main_process():
        print(printable(message), file=sys.stderr)


def max_over_processes(value: int) -> int:
    """Returns the maximum of a value over all processes, each of which must call this function."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def check_same_on_all_processes(digest: str, name: str) -> None:
    """Checks that all processes of the run have the same digest of something.

    Args:
      digest: hexadecimal digest.
      name: what it is a digest of, for the message.

    Raises:
      DistributedError: the digests differ. All processes raise it.
    """
    value = int(digest[:7], 16)  # fits into int32
    if max_over_processes(value) != -max_over_processes(-value):
        error = DistributedError(
            f"the processes of the run have different {name}; give all of them the same {name}"
        )
        error.on_all_processes = True
        raise error


@contextlib.contextmanager
def raise_on_all_processes() -> Iterator[None]:
    """Context in which a UserError in one process ends all of them, so that none waits for it.

    Raises:
      DistributedError: another process has failed.
    """
    error: UserError | None = None
    try:
        yield
    except UserError as local_error:
        error = local_error
    if max_over_processes(error is not None):
        error = error or DistributedError(
            f"process {jax.process_index()} stops because another process has failed"
        )
        error.on_all_processes = True
        raise error


@contextlib.contextmanager
def explain_lost_processes() -> Iterator[None]:
    """Context in which the loss of another process becomes an error of one line.

    Raises:
      DistributedError: a computation of several processes failed.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise DistributedError(
            f"process {jax.process_index()} of {jax.process_count()} lost the other processes; "
            f"restart all of them to resume from the last checkpoint ({one_line(error)})"
        ) from error


def exit_without_waiting(code: int) -> None:
    """Ends a process of several at once; JAX would wait for the others, which keep running.

    Does nothing in a run of one process.

    Args:
      code: exit code.
    """
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def limit_exit_time(code: int) -> None:
    """Ends this process a few seconds later, unless it ends before.

    Python waits for all threads, and those of a failed save would wait for minutes. Does nothing in
    a run of several processes, which end together.

    Args:
      code: exit code.
    """
    if not jax.distributed.is_initialized():
        timer = threading.Timer(EXIT_TIMEOUT, os._exit, (code,))
        timer.daemon = True
        timer.start()
