"""Speed of training between two logged steps: `StepTimer`."""

from __future__ import annotations

import time


class StepTimer:
    """Measures the speed of training, without the evaluations between steps."""

    def __init__(self, step: int):
        """Starts to measure, with `step` steps done."""
        self.restart(step)

    def restart(self, step: int) -> None:
        """Restarts the measurement, with `step` steps done."""
        self._start_step, self._start_time = step, time.perf_counter()

    def steps_per_second(self, step: int) -> float:
        """Returns the mean speed since the last restart; step `step` must have finished."""
        return (step - self._start_step) / (time.perf_counter() - self._start_time)
