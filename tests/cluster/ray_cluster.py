"""A real Ray cluster for tests, whose nodes are processes on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


class RayCluster:
    """Starts and kills nodes, each of which is a session of processes.

    Attributes:
      address: HOST:PORT of the head.
    """

    def __init__(self, directory: Path):
        self._directory = directory
        with socket.socket() as free_port:
            free_port.bind(("127.0.0.1", 0))
            self._port = free_port.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"
        self._sessions: list[int] = []

    def add_node(self, resources: dict[str, float], cpus: int = 1, gpus: int = 0) -> int:
        """Starts a node, the first one as the head; returns the id of its session."""
        head = ["--head", f"--port={self._port}", f"--temp-dir={self._directory}"]
        head += ["--include-dashboard=false"]
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start"),
            *([f"--address={self.address}"] if self._sessions else head),
            *(f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--resources={json.dumps(resources)}"),
            *("--node-ip-address=127.0.0.1", "--object-store-memory=100000000"),
            "--disable-usage-stats",
            *("--min-worker-port=0", "--max-worker-port=0"),  # any free ports
        ]
        # A file instead of a pipe: processes of the node inherit it and outlive the command.
        with tempfile.TemporaryFile("w+") as output:
            starter = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True
            )
            self._sessions.append(starter.pid)
            if starter.wait(timeout=60):
                output.seek(0)
                raise RuntimeError(f"ray start failed: {output.read()}")
        return starter.pid

    def stop_node(self, session: int) -> None:
        """Shuts a node down, which the cluster notices at once."""
        signal_all(session, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while processes(session) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.kill_node(session)

    def kill_node(self, session: int) -> None:
        """Kills all processes of a node, like a power failure."""
        signal_all(session, signal.SIGSTOP)  # no process may report the death of another
        deadline = time.monotonic() + 30
        while processes(session) and time.monotonic() < deadline:
            signal_all(session, signal.SIGKILL)
            time.sleep(0.1)

    def close(self) -> None:
        """Kills the remaining processes of all nodes."""
        for session in reversed(self._sessions):
            self.kill_node(session)


def processes(session: int) -> list[int]:
    """Returns the ids of the live processes of a session."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The fields after the name, which may contain spaces: state, parent, group, session.
            state, _, _, number = path.read_text().rpartition(") ")[2].split()[:4]
            if int(number) == session and state != "Z":
                pids.append(int(path.parent.name))
    return pids


def signal_all(session: int, signum: int) -> None:
    """Sends a signal to each process of a session."""
    for pid in processes(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


@contextlib.contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """Context with a cluster whose head has one CPU and one 'place'; it is removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # short, because it holds sockets
    cluster = RayCluster(directory)
    try:
        cluster.add_node({"place": 1})
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(directory, ignore_errors=True)
