"""A run on a Ray cluster: the actor on a node that starts the command, and the driver's view."""

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

from experiments.executors.base import End, Task
from flaxres.errors import one_line

ROOT = Path(__file__).resolve().parents[2]  # of the repository
NEVER_BEGAN = "stopped before it began"
GRACE = 60  # seconds from SIGTERM to SIGKILL for the companions of a process that has failed


class Runner:
    """One process of a run, on the node and with the devices that Ray has chosen; a Ray actor.

    Calls come one at a time, in its process's main thread. Each may come twice.
    """

    def __init__(self):
        self._child: subprocess.Popen | None = None
        self._sent: int | None = None

    def find_address(self) -> str:
        """HOST:PORT, a free port of this node, for the processes of a run to meet."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def start(self, task: Task, environment: Mapping[str, str]) -> str:
        """Starts the command; returns the node's name."""
        self._child = self._child or task.start(environment)
        return os.uname().nodename

    def poll(self, signum: int | None) -> int | None:
        """Sends the command a signal that it has not had; returns its exit code once it has one."""
        if signum is not None and signum != self._sent:
            self._child.send_signal(signum)
            self._sent = signum
        return self._child.poll()


class Process:
    """What the driver knows of a `Runner`.

    Attributes:
      address: what `find_address` gave.
      started: whether its command has been started.
      end: how it ended.
    """

    def __init__(self, actor: object):
        self.address: str | None = None
        self.started = False
        self.end: End | None = None
        self._actor = actor
        self._answer: object | None = None  # to the call that is on its way
        self._node = ""
        self._signum: int | None = None

    def call(self, method: str, *arguments: object) -> None:
        """Calls a method of the actor; `advance` takes the answer."""
        self._called = method, arguments
        self._answer = getattr(self._actor, method).remote(*arguments)

    def advance(self) -> None:
        """Takes the answer if it is there; once the command has been started, asks on and on."""
        import ray

        if self.end or not self._answer or not ray.wait([self._answer], timeout=0)[0]:
            return
        method, arguments = self._called
        try:
            value = ray.get(self._answer)
        except ray.exceptions.ActorUnavailableError:  # Ray does not know yet if it is dead
            self.call(method, *arguments)
            return
        except ray.exceptions.RayError as error:
            self._finish(End(1, _reason(error, self._node)))
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
            self._finish(End(value))

    def send(self, signum: int) -> None:
        """Sends the command a signal; if it has not been started, it never will be."""
        import ray

        self.advance()
        if self.started and not self.end:
            self._signum = signum
            self.call("poll", signum)
            if signum == signal.SIGKILL:  # the driver may be about to end
                ray.wait([self._answer], timeout=1)
        elif not self.end:
            self._finish(End(128 + signum, NEVER_BEGAN))

    def _finish(self, end: End) -> None:
        import ray

        self.end = end
        ray.kill(self._actor)  # frees its resources at once


class RayJob:
    """A run on the cluster; see `Job`.

    Attributes:
      is_started: whether all its processes were started when it was last polled.
      end: how it ended, as far as it was polled.
    """

    def __init__(self, task: Task, advance_queue: Callable[[], None]):
        """Waits for `begin`.

        Args:
          task: what to run.
          advance_queue: called at every poll.
        """
        self.is_started = False
        self.end: End | None = None
        self._task = task
        self._advance_queue = advance_queue
        self._processes: list[Process] = []
        self._group: object | None = None
        self._must_meet = False
        self._failed: int | None = None  # number of the process that failed first
        self._kill_at = float("inf")

    def begin(self, actors: Sequence[object], group: object | None) -> None:
        """Goes from the driver's queue to that of Ray.

        Args:
          actors: one for each process.
          group: the placement group of several.
        """
        self._processes = [Process(actor) for actor in actors]
        self._group = group
        self._must_meet = group is not None
        first = self._processes[0]
        first.call("find_address") if group else first.call("start", self._task, {})

    def started(self) -> bool:
        """Whether all its processes have been started."""
        self.poll()
        return self.is_started

    def poll(self) -> End | None:
        """How it ended; of several processes, as the first one that failed."""
        if not self.end:
            self._advance_queue()
        if self.end or not self._processes:
            return self.end
        for process in self._processes:
            process.advance()
        if self._must_meet and self._processes[0].address:
            self._start_all(self._processes[0].address)
        self.is_started = all(process.started for process in self._processes)
        failed = [i for i, p in enumerate(self._processes) if p.end and p.end.code]
        if failed and self._failed is None:
            self._failed = failed[0]
            self._kill_at = time.monotonic() + GRACE
            self.stop()
        if time.monotonic() > self._kill_at:
            self.kill()
        if all(process.end for process in self._processes):
            self._finish()
        return self.end

    def _finish(self) -> None:
        if self._group:
            from ray.util.placement_group import remove_placement_group

            remove_placement_group(self._group)
        if self._failed is None:
            self.end = End(0)
            return
        self.end = self._processes[self._failed].end
        if self._group:
            why = [(i, p.end.reason) for i, p in enumerate(self._processes) if p.end.reason]
            if not why and self._failed:
                why = [(self._failed, f"exit code {self.end.code}, see {self._log(self._failed)}")]
            reason = "process {}: {}".format(*why[0]) if why else ""
            self.end = dataclasses.replace(self.end, reason=reason)

    def _log(self, number: int) -> Path:
        return Path(f"{self._task.log}.process{number}") if number else self._task.log

    def _start_all(self, address: str) -> None:
        self._must_meet = False
        for i, process in enumerate(self._processes):
            environment = {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(len(self._processes)),
                "JAX_PROCESS_ID": str(i),
            }
            task = dataclasses.replace(self._task, log=self._log(i))
            process.call("start", task, environment)

    def stop(self) -> None:
        """Has every process save and stop, or takes the run out of the queue."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Ends every process at once."""
        self._send(signal.SIGKILL)

    def _send(self, signum: int) -> None:
        self._must_meet = False
        for process in self._processes:
            process.send(signum)
        if not self._processes and not self.end:
            self.end = End(128 + signum, NEVER_BEGAN)


def _reason(error: Exception, node: str) -> str:
    """Why a call to an actor failed, in a line that begins with the node.

    Args:
      error: that Ray has raised.
      node: its name, if known.
    """
    text = str(error)
    found = re.search(r"\bip[:=] ?([^\s,)]+)", text)
    where = f"node {node or found[1]}: " if node or found else ""
    if "failed to import" in text:
        return f"{where}{ROOT} is not there, or not with all it needs, as it is on this machine"
    if cause := getattr(error, "cause", None):  # what the actor's own code has raised
        return f"{where}{type(cause).__name__}: {one_line(cause)}"
    # A first line that says nothing, lines of names and numbers, and then why.
    words = [line for line in text.splitlines()[1:] if not re.match(r"\t\w+: ", line)]
    why = re.sub(r"Node Id: \w+", "", " ".join(words) or text)
    return where + one_line(Exception(why))
