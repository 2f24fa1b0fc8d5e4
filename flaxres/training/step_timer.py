"""Speed of training between two logged steps: `StepTimer`."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import jax

PyTree = Any


class StepTimer:
    """Measures the speed of training, without the evaluations between steps.

    Devices run behind the host: the program may look at the result of a step long after it was
    computed, in particular while it launches a later dispatch, which on a GPU takes about as long
    as to run it. The times at which results are ready are therefore taken by a thread.
    """

    def __init__(self, step: int):
        """Starts to measure, with `step` steps done."""
        self._watched: SimpleQueue[tuple[PyTree, Future[float]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ends: dict[int, Future[float]] = {}  # by step, the time at which it was done
        self._starts: dict[int, Future[float]] = {}  # by step, the time at which the next began
        self.restart(step)

    def watch_steps(self, step: int, results: PyTree) -> None:
        """Takes the time at which the results of the steps until `step` are ready."""
        self._ends[step] = self._ready_time(results)

    def watch_pause(self, step: int, results: PyTree) -> None:
        """Takes the time at which `results`, computed after step `step`, are ready.

        The time from the end of the step until then does not count as training. Without results
        that is the end of the step, which must be watched.
        """
        has_results = bool(jax.tree.leaves(results))
        self._starts[step] = self._ready_time(results) if has_results else self._ends[step]

    def restart(self, step: int) -> None:
        """Restarts the measurement at the end of step `step` and of the pause after it.

        If they are not watched, that is now.
        """
        self._start_step, self._start_time = step, _wait(self._starts.pop(step, None))

    def steps_per_second(self, step: int) -> float:
        """Returns the mean speed since the last restart until the end of step `step`.

        A step that is not watched must have ended just now.
        """
        return (step - self._start_step) / (_wait(self._ends.pop(step, None)) - self._start_time)

    def close(self) -> None:
        """Ends the thread when the results that it watches are ready."""
        self._watched.put(None)

    def _ready_time(self, results: PyTree) -> Future[float]:
        future: Future[float] = Future()
        if all(leaf.is_ready() for leaf in jax.tree.leaves(results)):
            future.set_result(time.perf_counter())
            return future
        if self._thread is None:
            # A daemon, because a device that never answers must not keep the program from ending.
            self._thread = threading.Thread(target=self._take_times, name="step_timer", daemon=True)
            self._thread.start()
        self._watched.put((results, future))
        return future

    def _take_times(self) -> None:
        while (watched := self._watched.get()) is not None:
            results, future = watched
            try:
                jax.block_until_ready(results)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(time.perf_counter())
            del watched, results, future  # frees the arrays while the thread waits


def _wait(future: Future[float] | None) -> float:
    return time.perf_counter() if future is None else future.result()
