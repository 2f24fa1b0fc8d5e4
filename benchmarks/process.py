"""Processes that are measured, and what is asked of them; standard library alone.

A worker prints one JSON object when its first step is done, then one for each line that it reads.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Worker:
    """A worker process that makes train steps when it is asked to.

    Attributes:
      ready: what it said when its first step was done, and `first_step`, the seconds since its
        start.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        """Starts it and waits for its first step.

        Raises:
          RuntimeError: it ended before, with the last line that it wrote.
        """
        begin = time.time()
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ready = self._read()
        self.ready["first_step"] = self.ready.pop("time") - begin

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for its answer."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.stderr.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        lines = self._process.stderr.read().strip().splitlines() or ["no output"]
        self.close()
        raise RuntimeError(lines[-1])


def serve(answers: Mapping[str, Callable[..., Mapping[str, Any]]], **ready: Any) -> None:
    """The worker's side: says that it is ready, then answers until its input ends.

    Args:
      answers: by the name of a request, `ask(NAME=arguments)`, what works out the answer.
      ready: to be said with the time of the first step, which is now.
    """
    print(json.dumps({"time": time.time(), **ready}), flush=True)
    for line in sys.stdin:
        ((name, arguments),) = json.loads(line).items()
        print(json.dumps(answers[name](**arguments)), flush=True)


def timed_steps(advance: Callable[[], int], wait: Callable[[], None], seconds: float) -> dict:
    """Calls `advance`, which makes some steps, for about so many seconds.

    Args:
      advance: returns the number of steps that it made, which need not be done yet.
      wait: returns when they are.
      seconds: see above.
    """
    begin = time.perf_counter()
    advance()
    wait()
    calls = max(1, round(seconds / (time.perf_counter() - begin)))
    begin = time.perf_counter()
    steps = sum(advance() for _ in range(calls))
    wait()
    return {"steps": steps, "seconds": time.perf_counter() - begin}


def best_seconds(function: Callable[[], None], repeats: int = 5) -> float:
    """The least time of several calls, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times)


def peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
