"""What logs, progress display, evaluations and checkpoints cost beside the steps of a run.

python -m benchmarks.overhead --config=configs/digits.py:resnet-20

Measures the same compiled steps in rounds that take each way in turn: the bare steps; the bare
steps with the evaluations of the config; and the loop of a run with parts of what it does besides.
All costs are percent of the bare steps in the same round: of their time on the wall, and of that of
all CPU cores, which other programs on the machine disturb less. The stall of a checkpoint is how
much longer the longest step of a round is than the median one, in steps; steps are timed without
evaluations, and beside it stands the same figure without checkpoints.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
from absl import flags

from benchmarks.report import Spread, show, write
from flaxres import cli
from flaxres.errors import ConfigError

ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds that take each way in turn.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 200, "Steps of each way in a round.", lower_bound=2)
OUTPUT = flags.DEFINE_string("output", None, "File for the JSON as well.")
cli.define_config("configs/digits.py:resnet-20")

# Whether the loop logs, evaluates and saves; and whether its steps are waited for one by one.
LOOPS = {
    "logs": ((True, False, False), False),
    "logs, evaluations": ((True, True, False), False),
    "logs, evaluations, saves": ((True, True, True), False),
    "each step": ((True, False, False), True),
    "each step, saves": ((True, False, True), True),
}


class Stopwatch:
    """Seconds since it was made: on the wall, and of this process on all cores."""

    def __init__(self):
        self._begin = self._now()

    @staticmethod
    def _now() -> np.ndarray:
        return np.array([time.perf_counter(), time.process_time()])

    def seconds(self) -> np.ndarray:
        """Both, as float64 (2,)."""
        return self._now() - self._begin


class Measured:
    """The programs and data of a config, compiled once for all ways."""

    def __init__(self):
        """Loads the data set of the flags' config.

        Raises:
          ConfigError: the config cannot be run here, or --steps are too few.
        """
        from flaxres.data import load_dataset
        from flaxres.training.compiled_steps import CompiledSteps
        from flaxres.training.dispatches import steps_per_dispatch

        self.config = cli.get_config()
        self.config.num_steps = STEPS.value
        self.dataset = load_dataset(self.config.dataset)
        self.compiled_steps = CompiledSteps(self.config, self.dataset)
        self.dispatch = steps_per_dispatch(self.config)
        self.train = self.compiled_steps.put(self.dataset.train)
        splits = (self.dataset.test, self.dataset.validation)
        self.evaluated = [self.compiled_steps.put(split) for split in splits if split is not None]
        self.config.num_steps -= self.config.num_steps % self.dispatch
        if self.config.num_steps < 2 * self.dispatch:
            raise ConfigError(
                f"--steps must be at least {2 * self.dispatch}, two dispatches, got {STEPS.value}"
            )

    def bare(self, evaluates: bool) -> np.ndarray:
        """Seconds of the steps alone, or with the evaluations that are due among them."""
        import jax

        state = self.compiled_steps.initial_state()
        steps = self.compiled_steps.compile_train_steps(state, self.train, self.dispatch)
        for split in self.evaluated:
            self.compiled_steps.compile_evaluation(state, split)
        jax.block_until_ready(state)
        watch = Stopwatch()
        sums = []
        for step in range(0, self.config.num_steps, self.dispatch):
            rows = self.compiled_steps.indices(step, self.dispatch)
            state, metrics = steps(state, self.train, rows)
            if evaluates and (step + self.dispatch) % self.config.eval_every == 0:
                sums += [
                    self.compiled_steps.launch_evaluation(state, split) for split in self.evaluated
                ]
        jax.block_until_ready((state, metrics, sums))
        return watch.seconds()

    def loop(self, kept: tuple[bool, bool, bool], one_by_one: bool) -> tuple[np.ndarray, ...]:
        """Seconds of a run's loop from its first step to its last, and those between updates.

        Args:
          kept: whether it logs, evaluates and saves.
          one_by_one: wait for each dispatch, and show it, to see how long it took.
        """
        import jax

        from flaxres.run.checkpoint import Checkpoints
        from flaxres.run.metric_writers import MetricWriters, TerminalWriter
        from flaxres.run.preemption import StopRequest
        from flaxres.training import loop

        class Timed(TerminalWriter):
            def restart_clock(self, step: int) -> None:
                super().restart_clock(step)
                self.watch, self.seen = Stopwatch(), {step: 0.0}  # all is compiled by now

            def is_due(self) -> bool:
                return one_by_one or super().is_due()

            def update(self, step: int, record=None, note: str = "") -> None:
                super().update(step, record, note)
                self.seen.setdefault(step, self.watch.seconds()[0])

        def due(config, step: int) -> tuple[bool, ...]:
            periods = (config.log_every, config.eval_every, config.checkpoint_every)
            return tuple(k and step % p == 0 for k, p in zip(kept, periods, strict=True))

        state = jax.block_until_ready(self.compiled_steps.initial_state())
        with (
            tempfile.TemporaryDirectory() as directory,
            mock.patch.object(loop, "due", due),
            mock.patch.object(loop, "MOST_AHEAD", 1 if one_by_one else loop.MAX_AHEAD),
            Timed("net", self.config.num_steps) as terminal,
            Checkpoints(Path(directory), self.config.keep_checkpoints) as checkpoints,
            MetricWriters([Path(directory)], 0) as writers,
        ):
            run = loop.TrainLoop(
                self.config, self.compiled_steps, self.dataset, writers, checkpoints, terminal
            )
            run.run(state, 0, StopRequest())
            seconds = terminal.watch.seconds()
        return seconds, np.diff(list(terminal.seen.values()))


def stall(times: np.ndarray) -> np.ndarray:
    """How much longer the longest dispatch is than the median one, in dispatches, as (1,)."""
    return times.max(keepdims=True) / np.median(times) - 1


def measure(measured: Measured, number: int) -> dict[str, np.ndarray]:
    """One round: see the rows of the table; two values where a stopwatch has two."""
    seconds, stalls = {}, {}
    ways = ["steps", "steps, evaluations", *LOOPS]
    turn = number % len(ways)
    for way in ways[turn:] + ways[:turn]:
        if way in LOOPS:
            seconds[way], times = measured.loop(*LOOPS[way])
            stalls[way] = stall(times[1:]) * measured.dispatch  # the first has none before it
        else:
            seconds[way] = measured.bare(way != "steps")
    cost = {way: 100 * (s / seconds["steps"] - 1) for way, s in seconds.items()}
    arithmetic = cost["steps, evaluations"]
    return {
        "bare step, ms": 1e3 * seconds["steps"] / measured.config.num_steps,
        "logs and progress, %": cost["logs"],
        "arithmetic of evaluations, %": arithmetic,
        "evaluations beyond it, %": cost["logs, evaluations"] - cost["logs"] - arithmetic,
        "logs, progress and evaluations beyond it, %": cost["logs, evaluations"] - arithmetic,
        "checkpoints, %": cost["logs, evaluations, saves"] - cost["logs, evaluations"],
        "stall with checkpoints, steps": stalls["each step, saves"],
        "stall without checkpoints, steps": stalls["each step"],
    }


def main() -> None:
    """Runs the rounds and prints a table and one JSON object."""
    import jax

    measured = Measured()
    os.environ["FORCE_COLOR"] = "1"  # draws the bar as on a terminal
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        measure(measured, 0)  # compiles, and warms the caches
        rounds = [measure(measured, number) for number in range(ROUNDS.value)]
    del os.environ["FORCE_COLOR"]
    result = {
        name: [Spread.of(values) for values in np.stack([one[name] for one in rounds], axis=1)]
        for name in rounds[0]
    }
    show(
        f"{ROUNDS.value} rounds of {measured.config.num_steps} steps: medians (quartiles)",
        ("", "on the wall", "all CPU cores"),
        [(name, *spreads, *[""] * (2 - len(spreads))) for name, spreads in result.items()],
    )
    device = jax.devices()[0].device_kind
    write(OUTPUT.value, {"device": device, "steps_per_dispatch": measured.dispatch} | result)


if __name__ == "__main__":
    cli.run(main)
