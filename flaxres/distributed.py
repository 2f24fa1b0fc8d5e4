"""Several processes, one run: when they start together, and what they have to agree on.

Every process runs the same program on its own part of each batch. Process 0 alone writes metrics
and speaks; all of them take part in checkpoints.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from flaxres.errors import ConfigError, DistributedError, UserError, one_line

AUTO = "auto"  # JAX finds out by itself: SLURM, Open MPI, Kubernetes, TPU pods
CONNECT_TIMEOUT = 300  # seconds until all processes must have reached the coordinator


def initialise(
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
        given = asked_by(os.environ)
    if given is None:
        return
    address, count, number = given
    if address != AUTO and (None in given or ":" not in address or not 0 <= number < count):
        raise ConfigError(
            "a run of several processes needs coordinator_address HOST:PORT, num_processes N and "
            f"process_id from 0 to N - 1, got {address!r}, {count!r} and {number!r}"
        )
    # Its handler of SIGTERM would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    arguments = {} if address == AUTO else dict(zip(_NAMES, given, strict=True))
    try:
        jax.distributed.initialize(initialization_timeout=timeout, **arguments)
    except Exception as error:  # of many kinds
        who = "this process" if address == AUTO else f"process {number} of {count}, at {address},"
        raise DistributedError(
            f"{who} could not join the others within {timeout} s: {one_line(error)}"
        ) from error


_NAMES = ("coordinator_address", "num_processes", "process_id")


def asked_by(environment: Mapping[str, str]) -> tuple[str, int | None, int | None] | None:
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


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def largest(value: int) -> int:
    """The largest of the values that the processes pass; all of them must call it."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Context that a UserError in one process ends in all, instead of leaving the others waiting.

    Raises:
      DistributedError: in the processes that had no error of their own.
    """
    error = None
    try:
        yield
    except UserError as own:
        error = own
    failed = largest(error is not None)
    if error is not None:
        raise error
    if failed:
        raise DistributedError(f"process {jax.process_index()} stops: another one has failed")
