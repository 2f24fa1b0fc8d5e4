"""Several processes, one run: when they start together, and what they have to agree on.

Every process runs the same program on its own part of each batch. Process 0 alone writes metrics
and speaks; all of them take part in checkpoints.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from flaxres.errors import ConfigError, DistributedError, UserError, one_line

AUTO = "auto"  # JAX finds out by itself: SLURM, Open MPI, Kubernetes, TPU pods
CONNECT_TIMEOUT = 300  # seconds until all processes must have reached the coordinator
_NAMES = ("coordinator_address", "num_processes", "process_id")


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = CONNECT_TIMEOUT,
) -> None:
    """Joins this process with the others of its run, if the arguments or the environment ask.

    Without arguments the environment decides: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID (a sweep on Ray sets them), a SLURM step of several tasks, a TPU pod. Call it
    before JAX computes anything.

    Args:
      coordinator_address: HOST:PORT of process 0, or 'auto'.
      num_processes: of the run.
      process_id: of this process, from 0.
      timeout: seconds to wait for the others.

    Raises:
      ConfigError: only some of the arguments are there, or they make no sense.
      DistributedError: the others could not be reached.
    """
    if jax.distributed.is_initialized():  # by whatever started this process, such as Ray Train
        return
    given = (coordinator_address, num_processes, process_id)
    if given == (None, None, None):
        given = settings_from_environment(os.environ)
    if given is None:
        return
    address, count, number = given
    if address != AUTO and (None in given or ":" not in address or not 0 <= number < count):
        raise ConfigError(
            "a run of several processes needs coordinator_address HOST:PORT, num_processes N and "
            f"process_id from 0 to N - 1, got {address!r}, {count!r} and {number!r}"
        )
    if address != AUTO and number > 0:
        _wait_for(address, number, timeout)
    elif address != AUTO:
        print(f"waiting at {address} for {count - 1} more processes", file=sys.stderr, flush=True)
    # Its handler of SIGTERM would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    arguments = {} if address == AUTO else dict(zip(_NAMES, given, strict=True))
    try:
        jax.distributed.initialize(initialization_timeout=timeout, **arguments)
    except Exception as error:  # of many kinds
        raise DistributedError(
            f"could not join the other processes of the run: {one_line(error)}"
        ) from error


def _wait_for(address: str, process_id: int, timeout: int) -> None:
    """Returns when process 0 listens; JAX would end this process with a dump if it never does."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline or isinstance(error, ValueError):
                raise DistributedError(
                    f"process {process_id} could not reach process 0 at {address} within "
                    f"{timeout} s ({one_line(error)}); is it started, and the address right?"
                ) from error
        time.sleep(0.2)


def settings_from_environment(
    environment: Mapping[str, str],
) -> tuple[str, int | None, int | None] | None:
    """Address, count and number that an environment asks for; None if it is for one process.

    Raises:
      ConfigError: a variable is missing or no number.
    """
    variables = [f"JAX_{name.upper()}" for name in _NAMES]
    values = [environment.get(variable) for variable in variables]
    if any(values):
        try:
            return values[0], int(values[1]), int(values[2])
        except (TypeError, ValueError):
            shown = ", ".join(f"{k}={v}" for k, v in zip(variables, values, strict=True))
            raise ConfigError(f"a run of several processes needs all of {shown}") from None
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return AUTO, None, None
    if "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return AUTO, None, None
    return None


def is_main_process() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def max_over_processes(value: int) -> int:
    """The largest of the values that the processes pass; all of them must call it."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


@contextlib.contextmanager
def raise_on_all_processes() -> Iterator[None]:
    """Context that a UserError in one process ends in all, instead of leaving the others waiting.

    Raises:
      DistributedError: in the processes that had no error of their own.
    """
    error = None
    try:
        yield
    except UserError as own:
        error = own
    if max_over_processes(error is not None):
        error = error or DistributedError(
            f"process {jax.process_index()} stops: another one has failed"
        )
        error.shared = True
        raise error


@contextlib.contextmanager
def explain_lost_processes() -> Iterator[None]:
    """Context in which the loss of another process is an error of one line.

    Raises:
      DistributedError: a computation failed that others take part in.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise DistributedError(
            f"process {jax.process_index()} of {jax.process_count()} lost the others; start all "
            f"again, they go on from the last checkpoint ({one_line(error)})"
        ) from error


def exit_without_waiting(code: int) -> None:
    """Ends a process whose companions do not end with it; else JAX would wait for them."""
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
