"""Runs on a Ray cluster: Ray finds a node with room for each, and tells when one has died.

A run is a Ray actor, or several for a run of several processes, that starts the command as its
child. Ray pickles the actor's class by name, so every node must have this repository under the
same path, as it must have the working directories: actors get the path as PYTHONPATH.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Mapping, Sequence

from experiments.executors.base import Job, Task
from experiments.executors.ray_job import ROOT, RayJob, Runner
from flaxres.errors import ConfigError, UserError, one_line

PATIENCE = 60  # seconds to connect; Ray alone tries for minutes
GIVE_SECONDS = 0.2
LOOK_SECONDS = 10.0

# Variables of the process that Ray starts for an actor, and so of the command.
ENVIRONMENT = {
    "PYTHONPATH": f"{ROOT}:${{PYTHONPATH}}",  # Ray fills in the node's own
    # A run that has asked for no GPU sees none. Otherwise all such runs would share the first.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # An actor's process that ends would kill the command; SIGTERM (`Task.start`) lets it save.
    "RAY_kill_child_processes_on_worker_exit": "0",
}

# Connecting may hang, or end the process, in Ray's C++; so a child tries it first.
_TRIAL = """
import logging, sys, warnings
warnings.simplefilter("ignore")
import ray
try:
    ray.init(sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
except Exception as error:
    print(type(error).__name__, *str(error).split())
    sys.exit(1)
"""


class RayExecutor:
    """Executes tasks on a Ray cluster, as many as it has room for.

    Args:
      address: HOST:PORT of the cluster's head; None for RAY_ADDRESS or else the cluster that this
        machine is a node of. A cluster is never started.
      cpus_per_task: CPUs that Ray sets aside for each process of a run.
      gpus_per_task: GPUs, likewise.
      resources: other resources, likewise, e.g. {"TPU": 4}.
      processes_per_run: above 1, a run is that many processes, on as many nodes if it can be.
    """

    capacity = None

    def __init__(
        self,
        *,
        address: str | None,
        cpus_per_task: int,
        gpus_per_task: float,
        resources: Mapping[str, float],
        processes_per_run: int = 1,
    ):
        self._address = address or os.environ.get("RAY_ADDRESS") or "auto"
        self._options = {
            "num_cpus": cpus_per_task,
            "num_gpus": gpus_per_task,
            "resources": dict(resources),
            # XLA's threads on a CPU; otherwise as many as the node has cores, whoever uses them.
            "runtime_env": {"env_vars": {**ENVIRONMENT, "PJRT_NPROC": str(cpus_per_task)}},
        }
        if cpus_per_task <= 0:
            raise ConfigError(f"cpus_per_run must be above 0, got {cpus_per_task}")
        amounts = {"CPU": cpus_per_task, "GPU": gpus_per_task, **resources}
        self._bundle = {name: amount for name, amount in amounts.items() if amount}
        self._processes = processes_per_run
        self._waiting: deque[RayJob] = deque()
        self._given: list[RayJob] = []  # to Ray
        self._room = 0
        self._look_at = self._give_at = 0.0  # when to count the room, or to give, again

    def __enter__(self) -> RayExecutor:
        """Connects to the cluster.

        Raises:
          ConfigError: the address makes no sense.
          UserError: Ray is not installed; the cluster cannot be reached, has another version of
            Ray or Python, or is too small for even one run.
        """
        _connect(self._address)
        import ray

        try:
            check_room(self._bundle, self._processes)
            self._runner = ray.remote(Runner)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()  # ends the actors; commands that are still there save and stop

    def submit(self, tasks: Sequence[Task]) -> list[Job]:
        """Queues tasks; one that fits nowhere waits, for a new node if need be.

        Raises:
          ConfigError: Ray does not take the resources.
        """
        jobs = [RayJob(task, self._give) for task in tasks]
        self._waiting += jobs
        self._give_at = 0.0
        self._give()
        return jobs

    def _give(self) -> None:
        """Gives Ray the next runs: as many as there is room for, and at least one to wait there.

        Ray starts those that wait in any order. All jobs call this when they are polled.
        """
        now = time.monotonic()
        if not self._waiting or now < self._give_at:
            return
        self._give_at = now + GIVE_SECONDS
        if now > self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._room = room(node_amounts(self._bundle), self._bundle) // self._processes
        self._given = [job for job in self._given if not job.end]
        running = sum(job.is_started for job in self._given)
        while self._waiting and len(self._given) - running < max(1, self._room - running):
            job = self._waiting.popleft()
            if not job.end:
                job.begin(*self._make_actors())
                self._given.append(job)

    def _make_actors(self) -> tuple[list[object], object | None]:
        """The actors of a run and, for several, their placement group."""
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        try:
            if self._processes == 1:
                return [self._runner.options(**self._options).remote()], None
            group = placement_group([self._bundle] * self._processes, strategy="SPREAD")
            places = [
                PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i)
                for i in range(self._processes)
            ]
            return [
                self._runner.options(**self._options, scheduling_strategy=place).remote()
                for place in places
            ], group
        except (TypeError, ValueError) as error:
            text = one_line(error)
            raise ConfigError(f"Ray does not take {_show(self._bundle)}: {text}") from error


def _connect(address: str) -> None:
    """Connects this process to a cluster; without Ray's messages, which would break a live table.

    Raises:
      ConfigError, UserError: see `RayExecutor.__enter__`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import ray
            import ray._private.worker
        except ImportError as error:
            raise UserError(
                f"Ray is not there ({one_line(error)}); pip install -r requirements-cluster.txt"
            ) from error
        what = "the Ray cluster of this machine"
        if address != "auto":
            what = f"the Ray cluster at {address}"
            _check_address(address)
        try:
            trial = [sys.executable, "-c", _TRIAL, address]
            done = subprocess.run(trial, capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise UserError(f"{what} does not answer within {PATIENCE} s") from None
        if "Could not find any running Ray" in done.stdout:
            raise UserError(
                "this machine is no node of a Ray cluster; give --ray_address=HOST:PORT, or start "
                "one with `ray start --head`"
            )
        if done.returncode and done.stdout:
            raise UserError(f"cannot connect to {what}: {done.stdout.strip()}")
        if done.returncode:  # a stack trace of C++
            raise UserError(
                f"Ray crashes when it connects to {what}; is this machine a node of it (ray start "
                f"--address={address})?"
            )
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            raise UserError(f"cannot connect to {what}: {one_line(error)}") from error
        finally:
            signal.signal(signal.SIGTERM, before)  # Ray sets its own
    # Ray prints what happens to nodes, whatever log_to_driver says.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None


def _check_address(address: str) -> None:
    """Raises an error if nothing listens there, which Ray alone notices after 80 seconds."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise ConfigError(
            "the address of a Ray cluster is HOST:PORT of its head, e.g. 10.0.0.1:6379, and this "
            f"machine is a node of it; got {address!r}"
        )
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers at {address}: {one_line(error)}") from error


def check_room(bundle: Mapping[str, float], processes: int) -> None:
    """Checks that the cluster can hold a run, at least when nothing else is there.

    Args:
      bundle: what each process asks for.
      processes: of the run.

    Raises:
      UserError: it cannot.
    """
    nodes = node_amounts(bundle)
    if (most := room(nodes, bundle)) < processes:
        kinds = Counter(map(_show, nodes)).most_common(5)
        raise UserError(
            f"a run asks for {processes} x ({_show(bundle)}) and the Ray cluster holds only "
            f"{most}: its nodes have {', '.join(f'{count} x ({kind})' for kind, count in kinds)}"
        )


def node_amounts(bundle: Mapping[str, float]) -> list[dict[str, float]]:
    """What each live node has, free or not, of the resources in `bundle`."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [{name: node.get(name, 0) for name in bundle} for node in nodes]


def room(nodes: Sequence[Mapping[str, float]], bundle: Mapping[str, float]) -> int:
    """How often `bundle` fits into nodes."""
    return sum(min(int(node[name] / bundle[name] + 1e-6) for name in bundle) for node in nodes)


def _show(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in amounts.items())
