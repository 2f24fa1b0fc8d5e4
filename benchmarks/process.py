"""Worker processes of the benchmarks, and their time and memory; standard library only.

A worker prints one JSON object when its first step is done. It then reads requests, one per line,
and prints one JSON object for each.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

# JAX's memory on a GPU: docs.jax.dev/en/latest/gpu_memory_allocation.html
MEMORY_VARIABLES = (
    *("XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION"),
    *("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_ALLOCATOR"),
)
CPU_SECONDS_WHEN_IDLE = 0.03  # of all child processes, in one second


class Worker:
    """A process that runs train steps on request.

    Attributes:
      ready: what the worker reported when its first step was done, and 'first_step', the seconds
        from its start until then.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        """Starts the process and waits for its first step.

        Args:
          command: program and arguments.
          environment: variables to add to those of this process and of `share_gpu`.

        Raises:
          RuntimeError: the process ended before its first step; has its last line of output.
        """
        start = time.time()
        # A file, because a full pipe would block the process. `close` closes it.
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **share_gpu(), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.ready = self._read()
        self.ready["first_step"] = self.ready.pop("time") - start

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request, `NAME={argument: value}`, and returns the worker's answer.

        Raises:
          RuntimeError: the process has ended; has its last line of output.
        """
        stdin = open_pipe(self._process.stdin)
        with contextlib.suppress(BrokenPipeError):  # `_read` reports the error
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):  # a request that the process did not read
                open_pipe(stream).close()
        self._process.wait()
        self._errors.close()

    def _read(self) -> dict[str, Any]:
        for line in open_pipe(self._process.stdout):
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or ["no output"]
        self.close()
        ended = f" (ended by signal {-code})" if code < 0 else ""
        raise RuntimeError(lines[-1] + ended)


def share_gpu() -> dict[str, str]:
    """Returns the variables with which several processes use one GPU; {} if the user has set them.

    By default each process of JAX would reserve 75% of the memory when it starts.
    """
    if any(name in os.environ for name in MEMORY_VARIABLES):
        return {}
    return {MEMORY_VARIABLES[0]: "false"}


def open_pipe(stream: IO[str] | None) -> IO[str]:
    """Returns a stream of a process that was started with a pipe for it.

    Raises:
      ValueError: it was started without.
    """
    if stream is None:
        raise ValueError("the process has no such pipe")
    return stream


def serve(handlers: Mapping[str, Callable[..., Mapping[str, Any]]], **ready: Any) -> None:
    """Reports that the worker is ready, then answers requests until standard input ends.

    Args:
      handlers: by name of the request, the function that computes the answer; it receives the
        arguments of the request.
      ready: values to report with the time of the first step, which is now.
    """
    print(json.dumps({"time": time.time(), **ready}), flush=True)
    for line in sys.stdin:
        ((name, arguments),) = json.loads(line).items()
        print(json.dumps(handlers[name](**arguments)), flush=True)


def timed_steps(
    advance: Callable[[], int], wait: Callable[[], None], seconds: float
) -> dict[str, float]:
    """Runs steps for about a given time.

    Args:
      advance: starts some steps and returns their number.
      wait: returns when all started steps are done.
      seconds: duration of the measurement, in seconds.

    Returns:
      'steps', the number of steps, and 'seconds', the time they took.
    """
    start = time.perf_counter()
    advance()
    wait()
    calls = max(1, round(seconds / (time.perf_counter() - start)))
    start = time.perf_counter()
    steps = sum(advance() for _ in range(calls))
    wait()
    return {"steps": steps, "seconds": time.perf_counter() - start}


def best_seconds(function: Callable[[], object], repeats: int = 2) -> float:
    """Returns the shortest time of `repeats` calls, in seconds, after one warm-up call."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_memory() -> int:
    """Returns the peak memory of this process, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def resident_memory() -> int:
    """Returns the memory of this process in bytes; its peak where there is no /proc."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_memory()
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_mib() -> float:
    """Returns the memory of this process and its children in MiB; shared pages count in each."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    resident_pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    return sum(resident_pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def wait_until_idle(timeout: float = 60) -> None:
    """Returns when the child processes have nothing to do.

    Args:
      timeout: longest time to wait, in seconds.

    Raises:
      RuntimeError: they are still busy after `timeout`.
    """

    def cpu_seconds() -> float:
        stats = [
            Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
            for child in multiprocessing.active_children()
        ]
        return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")

    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        before = cpu_seconds()
        time.sleep(1)
        if cpu_seconds() - before <= CPU_SECONDS_WHEN_IDLE:
            return
    raise RuntimeError(f"workers are still busy after {timeout:.0f} s")
