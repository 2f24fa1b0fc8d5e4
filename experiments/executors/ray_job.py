"""Runs on a Ray cluster: the actor that starts a command on a node, and the driver's side of it."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flaxres
from flaxres.errors import one_line
from flaxres.experiments.executors.base import ExitStatus, Job, Task
from flaxres.experiments.executors.gpu_memory import memory_variables

ROOT = Path(flaxres.__file__).parent.parent  # directory in which Python finds flaxres
NEVER_STARTED = "stopped before it started"
GRACE_SECONDS = 60  # from SIGTERM to SIGKILL for the other processes of a run that has failed


class RunActor:
    """A Ray actor that starts one process of a run on the node that Ray has chosen.

    Ray calls one method at a time, in the main thread of the actor's process, and may repeat a call
    whose answer was lost.
    """

    def __init__(self, gpus: float = 0) -> None:
        """Creates the actor.

        Args:
          gpus: GPUs that Ray has reserved for it. For a fraction, the command gets a memory limit,
            unless the node's environment has one.
        """
        self._gpus = gpus
        self._child: subprocess.Popen[bytes] | None = None
        self._sent_signal: int | None = None

    def find_address(self) -> str:
        """Returns HOST:PORT with a free port of this node, where the processes of a run meet."""
        import ray

        with socket.socket() as free_port:
            free_port.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{free_port.getsockname()[1]}"

    def start(self, task: Task, environment: Mapping[str, str]) -> str:
        """Starts the command, unless it is already started; returns the name of the node."""
        if self._child is None:
            self._child = task.start({**memory_variables(self._gpus, os.environ), **environment})
        return os.uname().nodename

    def poll(self, signum: int | None) -> int | None:
        """Sends the command a signal, unless already sent; returns its exit code or None.

        Raises:
          RuntimeError: the command has not been started.
        """
        if self._child is None:
            raise RuntimeError("poll was called before start")
        if signum is not None and signum != self._sent_signal:
            self._child.send_signal(signum)
            self._sent_signal = signum
        return self._child.poll()


class RemoteProcess:
    """The driver's view of a `RunActor`.

    Attributes:
      address: result of `RunActor.find_address`, or None if it has not arrived.
      started: True once the command has been started.
      exit_status: how the command ended, or None.
    """

    def __init__(self, actor: Any):
        self.address: str | None = None
        self.started = False
        self.exit_status: ExitStatus | None = None
        self._actor = actor
        self._answer: Any | None = None  # Ray's reference to the result of the pending call
        self._node = ""
        self._signum: int | None = None

    def call(self, method: str, *arguments: Any) -> None:
        """Calls a method of the actor and returns at once; `update` handles the result."""
        self._pending_call = method, arguments
        self._answer = getattr(self._actor, method).remote(*arguments)

    def update(self) -> None:
        """Handles the result of the pending call, if it has arrived, and polls the command."""
        import ray

        if self.exit_status or not self._answer or not ray.wait([self._answer], timeout=0)[0]:
            return
        method, arguments = self._pending_call
        try:
            value = ray.get(self._answer)
        except ray.exceptions.ActorUnavailableError:  # Ray does not know yet if the actor is dead
            self.call(method, *arguments)
            return
        except ray.exceptions.RayError as error:
            self._finish(ExitStatus(1, _explain(error, self._node)))
            return
        self._answer = None
        if method == "find_address":
            self.address = value
        elif method == "start":
            self.started, self._node = True, value
            self.call("poll", None)
        elif value is None:
            self.call("poll", self._signum)
        else:
            self._finish(ExitStatus(value))

    def send(self, signum: int) -> None:
        """Sends the command a signal; a command that has not been started never will be."""
        import ray

        self.update()
        if self.started and not self.exit_status:
            self._signum = signum
            self.call("poll", signum)
            if signum == signal.SIGKILL:  # the driver may be about to end
                ray.wait([self._answer], timeout=1)
        elif not self.exit_status:
            self._finish(ExitStatus(128 + signum, NEVER_STARTED))

    def _finish(self, exit_status: ExitStatus) -> None:
        import ray

        self.exit_status = exit_status
        ray.kill(self._actor)  # frees its resources at once


class RayJob(Job):
    """A run on a Ray cluster, of one or several processes.

    Attributes:
      is_started: True if all processes had been started at the last poll.
      exit_status: how the run ended, as of the last poll, or None.
    """

    def __init__(self, task: Task, launch_waiting: Callable[[], None]):
        """Creates a job that waits for `launch`.

        Args:
          task: command of the run.
          launch_waiting: launches waiting jobs of the executor; called at every poll.
        """
        self.is_started = False
        self.exit_status: ExitStatus | None = None
        self._task = task
        self._launch_waiting = launch_waiting
        self._processes: list[RemoteProcess] = []
        self._group: Any | None = None
        self._needs_address = False  # the processes start once the first one has an address
        self._failed: int | None = None  # index of the process that failed first
        self._kill_at = float("inf")

    def launch(self, actors: Sequence[Any], group: Any | None) -> None:
        """Moves the job from the executor's queue to that of Ray.

        Args:
          actors: a `RunActor` for each process.
          group: placement group of the actors; None for one process.
        """
        self._processes = [RemoteProcess(actor) for actor in actors]
        self._group = group
        self._needs_address = group is not None
        first = self._processes[0]
        first.call("find_address") if group else first.call("start", self._task, {})

    def has_started(self) -> bool:
        """Returns True once all processes have been started."""
        self.poll()
        return self.is_started

    def poll(self) -> ExitStatus | None:
        """Returns how the run ended, or None; with several processes, how the first failure ended.

        When one process fails, the others are asked to stop and killed after GRACE_SECONDS.
        """
        if not self.exit_status:
            self._launch_waiting()
        if self.exit_status or not self._processes:
            return self.exit_status
        for process in self._processes:
            process.update()
        if self._needs_address and self._processes[0].address:
            self._start_all(self._processes[0].address)
        self.is_started = all(process.started for process in self._processes)
        failed = [i for i, p in enumerate(self._processes) if p.exit_status and p.exit_status.code]
        if failed and self._failed is None:
            self._failed = failed[0]
            self._kill_at = time.monotonic() + GRACE_SECONDS
            self.stop()
        if time.monotonic() > self._kill_at:
            self.kill()
        ended = [p.exit_status for p in self._processes if p.exit_status]
        if len(ended) == len(self._processes):
            self._finish(ended)
        return self.exit_status

    def _finish(self, processes: Sequence[ExitStatus]) -> None:
        """Sets the exit status of the run from those of all its processes."""
        if self._group:
            from ray.util.placement_group import remove_placement_group

            remove_placement_group(self._group)
        if self._failed is None:
            self.exit_status = ExitStatus(0)
            return
        first_failure = processes[self._failed]
        if self._group:
            reasons = [(i, status.reason) for i, status in enumerate(processes) if status.reason]
            if not reasons and self._failed:
                log = self._log(self._failed)
                reasons = [(self._failed, f"exit code {first_failure.code}, see {log}")]
            reason = "process {}: {}".format(*reasons[0]) if reasons else ""
            first_failure = dataclasses.replace(first_failure, reason=reason)
        self.exit_status = first_failure

    def _log(self, index: int) -> Path:
        return Path(f"{self._task.log}.process{index}") if index else self._task.log

    def _start_all(self, address: str) -> None:
        """Starts all processes, with the address where they meet."""
        self._needs_address = False
        for i, process in enumerate(self._processes):
            environment = {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(len(self._processes)),
                "JAX_PROCESS_ID": str(i),
            }
            task = dataclasses.replace(self._task, log=self._log(i))
            process.call("start", task, environment)

    def stop(self) -> None:
        """Asks all processes to save and stop, or removes the run from the queue."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Kills all processes."""
        self._send(signal.SIGKILL)

    def _send(self, signum: int) -> None:
        self._needs_address = False
        for process in self._processes:
            process.send(signum)
        if not self._processes and not self.exit_status:
            self.exit_status = ExitStatus(128 + signum, NEVER_STARTED)


def _explain(error: Exception, node: str) -> str:
    """Explains in one line, which begins with the node, why a call of an actor failed.

    Args:
      error: exception that Ray raised.
      node: name of the node, or "" if it is not known.
    """
    text = str(error)
    if not node and (address := re.search(r"\bip[:=] ?([^\s,)]+)", text)):
        node = address[1]
    where = f"node {node}: " if node else ""
    if "failed to import" in text:
        return f"{where}{ROOT}, or a package that it imports, is missing on the node"
    if cause := getattr(error, "cause", None):  # an exception in the code of the actor
        return f"{where}{type(cause).__name__}: {one_line(cause)}"
    # Ray's message is a general first line, then lines of names and numbers, then the reason.
    lines = [line for line in text.splitlines()[1:] if not re.match(r"\t\w+: ", line)]
    reason = re.sub(r"Node Id: \w+", "", " ".join(lines) or text)
    return where + one_line(Exception(reason))
