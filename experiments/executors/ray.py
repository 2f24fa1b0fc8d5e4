"""Executor for a Ray cluster: Ray finds nodes with free resources and reports nodes that died.

A run is a Ray actor that starts the command as its child process; a run of several processes has
one actor per process. Ray pickles the actor's class by name, so all nodes need this repository at
the same path (actors get it as PYTHONPATH), and the working directories too.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

from flaxres.errors import ConfigError, UserError, one_line
from flaxres.experiments.executors.base import Executor, Task
from flaxres.experiments.executors.ray_job import ROOT, RayJob, RunActor

CONNECT_TIMEOUT = 60  # seconds; Ray itself tries for minutes
LAUNCH_SECONDS = 0.2  # between two launches of waiting runs
COUNT_SECONDS = 10.0  # between two counts of the resources of the cluster
MAX_LISTED_NODES = 5  # kinds of nodes in an error message

# Variables of the actor's process, which the command inherits.
ENVIRONMENT = {
    "PYTHONPATH": f"{ROOT}:${{PYTHONPATH}}",  # Ray inserts the PYTHONPATH of the node
    # Hides all GPUs from a run that requests none. All such runs would otherwise share the first.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # Otherwise Ray kills the command when the actor ends. SIGTERM (`Task.start`) lets it save.
    "RAY_kill_child_processes_on_worker_exit": "0",
}

# Connects in a child process first, because Ray's C++ code may hang or end the process.
_PROBE = """
import logging, sys, warnings
warnings.simplefilter("ignore")
import ray
try:
    ray.init(sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
except Exception as error:
    print(type(error).__name__, *str(error).split())
    sys.exit(1)
"""


class RayExecutor(Executor):
    """Executes tasks on a Ray cluster, as many at a time as its resources allow.

    Args:
      address: HOST:PORT of the cluster's head. None for the variable RAY_ADDRESS, or else the
        cluster that this machine is a node of. A cluster is never started.
      cpus_per_task: CPUs that Ray reserves for each process of a run.
      gpus_per_task: GPUs that Ray reserves for each process of a run. A process with a fraction
        of a GPU gets the same fraction of the memory.
      resources: other resources of each process, such as {"TPU": 4}.
      processes_per_run: number of processes of a run, which Ray places on different nodes if
        possible.
    """

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
            # Limits XLA's threads on a CPU, which would otherwise use all cores of the node.
            "runtime_env": {"env_vars": {**ENVIRONMENT, "PJRT_NPROC": str(cpus_per_task)}},
        }
        if set(str(ROOT)) & set(":$"):
            raise ConfigError(
                "Ray passes the directory of flaxres in PYTHONPATH, so it must not contain : or "
                f"$, got {str(ROOT)!r}; move flaxres"
            )
        if cpus_per_task <= 0:
            raise ConfigError(f"cpus_per_run must be above 0, got {cpus_per_task}")
        if processes_per_run < 1:
            raise ConfigError(f"processes_per_run must be at least 1, got {processes_per_run}")
        for name, amount in {"gpus_per_run": gpus_per_task, **resources}.items():
            if not name or not 0 <= amount < math.inf:
                raise ConfigError(
                    "resources must have a name and a number that is at least 0, got "
                    f"{name}={amount:g}"
                )
        amounts = {"CPU": cpus_per_task, "GPU": gpus_per_task, **resources}
        self._bundle = {name: amount for name, amount in amounts.items() if amount}
        self._processes_per_run = processes_per_run
        self._waiting: deque[RayJob] = deque()  # in the queue of this executor
        self._launched: list[RayJob] = []  # passed on to Ray
        self._max_runs = 0  # runs that fit into the cluster
        self._count_at = self._launch_at = 0.0  # times of the next count and the next launch

    def __enter__(self) -> RayExecutor:
        """Connects to the cluster.

        Raises:
          ConfigError: the address is malformed.
          UserError: Ray is not installed, or the cluster cannot be reached, has another version of
            Ray or Python, or is too small for one run.
        """
        _connect(self._address)
        import ray

        try:
            check_resources(self._bundle, self._processes_per_run)
            self._actor_class = ray.remote(RunActor)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()  # ends the actors, and commands that are still running save and stop

    def submit(self, tasks: Sequence[Task]) -> list[RayJob]:
        """Queues tasks; a task for which there is no room waits, also for new nodes.

        Raises:
          ConfigError: Ray rejects the resources.
        """
        jobs = [RayJob(task, self._launch) for task in tasks]
        self._waiting += jobs
        self._launch_at = 0.0
        self._launch()
        return jobs

    def _launch(self) -> None:
        """Passes waiting runs on to Ray while there is room, and at least one that Ray queues.

        Ray starts the runs in its own queue in any order, so that queue is kept short. All jobs
        call this when they are polled.
        """
        now = time.monotonic()
        if not self._waiting or now < self._launch_at:
            return
        self._launch_at = now + LAUNCH_SECONDS
        if now > self._count_at:
            self._count_at = now + COUNT_SECONDS
            max_processes = count_bundles(node_resources(self._bundle), self._bundle)
            self._max_runs = max_processes // self._processes_per_run
        self._launched = [job for job in self._launched if not job.exit_status]
        running = sum(job.is_started for job in self._launched)
        while self._waiting and len(self._launched) - running < max(1, self._max_runs - running):
            job = self._waiting.popleft()
            if not job.exit_status:
                job.launch(*self._make_actors())
                self._launched.append(job)

    def _make_actors(self) -> tuple[list[Any], Any | None]:
        """Creates the actors of a run and, for several processes, their placement group."""
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        gpus = self._bundle.get("GPU", 0.0)
        try:
            if self._processes_per_run == 1:
                return [self._actor_class.options(**self._options).remote(gpus)], None
            group = placement_group([self._bundle] * self._processes_per_run, strategy="SPREAD")
            strategies = [
                PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i)
                for i in range(self._processes_per_run)
            ]
            classes = [
                self._actor_class.options(**self._options, scheduling_strategy=strategy)
                for strategy in strategies
            ]
            return [actor_class.remote(gpus) for actor_class in classes], group
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"Ray rejects the resources {_format_resources(self._bundle)}: {one_line(error)}"
            ) from error


def _connect(address: str) -> None:
    """Connects this process to a cluster, without messages of Ray that would break a live table.

    Raises:
      ConfigError: the address is malformed.
      UserError: Ray is not installed, or the cluster cannot be reached.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import ray
            import ray._private.worker
        except ImportError as error:
            raise UserError(
                f"Ray is not installed ({one_line(error)}); run "
                "pip install -r requirements-cluster.txt"
            ) from error
        cluster = "the Ray cluster of this machine"
        if address != "auto":
            cluster = f"the Ray cluster at {address}"
            _check_address(address)
        try:
            command = [sys.executable, "-c", _PROBE, address]
            probe = subprocess.run(command, capture_output=True, text=True, timeout=CONNECT_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise UserError(f"{cluster} does not answer within {CONNECT_TIMEOUT} s") from None
        if "Could not find any running Ray" in probe.stdout:
            raise UserError(
                "this machine is not a node of a Ray cluster; set --ray_address=HOST:PORT, or "
                "start a cluster with `ray start --head`"
            )
        if probe.returncode and probe.stdout:
            raise UserError(f"cannot connect to {cluster}: {probe.stdout.strip()}")
        if probe.returncode:  # ended by a crash in C++, without a message
            raise UserError(
                f"Ray crashes while connecting to {cluster}; check that this machine is a node of "
                f"it (ray start --address={address})"
            )
        sigterm_handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            raise UserError(f"cannot connect to {cluster}: {one_line(error)}") from error
        finally:
            signal.signal(signal.SIGTERM, sigterm_handler)  # Ray installs its own
    # Ray prints events of nodes even with log_to_driver=False.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None


def _check_address(address: str) -> None:
    """Checks that something listens at the address, which Ray itself reports after 80 seconds.

    Raises:
      ConfigError: the address is not HOST:PORT.
      UserError: nothing listens there.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise ConfigError(
            "the address of a Ray cluster must be HOST:PORT of its head, e.g. 10.0.0.1:6379, and "
            f"this machine must be a node of it; got {address!r}"
        )
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers at {address}: {one_line(error)}") from error


def check_resources(bundle: Mapping[str, float], processes: int) -> None:
    """Checks that the cluster, if it were idle, has enough resources for one run.

    Args:
      bundle: resources of each process.
      processes: number of processes of the run.

    Raises:
      UserError: the run does not fit.
    """
    nodes = node_resources(bundle)
    if (max_processes := count_bundles(nodes, bundle)) < processes:
        kinds = Counter(map(_format_resources, nodes)).most_common(MAX_LISTED_NODES)
        listed = ", ".join(f"{count} x ({kind})" for kind, count in kinds)
        raise UserError(
            f"a run needs {processes} x ({_format_resources(bundle)}), but the Ray cluster has "
            f"room for only {max_processes}: its nodes have {listed}"
        )


def node_resources(bundle: Mapping[str, float]) -> list[dict[str, float]]:
    """Returns the total amounts, free or not, of the resources in `bundle` on each live node."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [{name: node.get(name, 0) for name in bundle} for node in nodes]


def count_bundles(nodes: Sequence[Mapping[str, float]], bundle: Mapping[str, float]) -> int:
    """Returns how many copies of `bundle` fit into nodes with the given resources."""
    return sum(min(int(node[name] / bundle[name] + 1e-6) for name in bundle) for node in nodes)


def _format_resources(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in amounts.items())
