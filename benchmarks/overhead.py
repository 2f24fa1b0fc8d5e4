"""Cost of logs, progress display, evaluations and checkpoints on top of the steps of a run.

python -m benchmarks.overhead --config=configs/digits.py:resnet-20

All variants run the same compiled steps, and every round measures each of them: the bare steps, the
bare steps with the evaluations of the config, and the training loop with some of its other work.

Costs are percentages of the bare steps of the same round: of their wall-clock time, and of the time
of all CPU cores, which depends less on other programs. The stall of a checkpoint is how much longer
the longest step of a round is than the median one, in steps. It is measured without evaluations,
and compared with the stall without checkpoints.
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
from jaxtyping import Float64
from ml_collections import ConfigDict

from benchmarks.report import Spread, print_table, write_json
from flaxres import cli
from flaxres.errors import ConfigError

ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "Number of rounds; each measures every variant.", lower_bound=1
)
STEPS = flags.DEFINE_integer("steps", 200, "Steps of each variant per round.", lower_bound=2)
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "File for the JSON result, e.g. overhead.json (default: print it).",
)
cli.define_config("configs/digits.py:resnet-20")

# Variants of the training loop: does it log, evaluate and save, and does it wait for each dispatch?
LOOPS = {
    "logs": ((True, False, False), False),
    "logs, evaluations": ((True, True, False), False),
    "logs, evaluations, saves": ((True, True, True), False),
    "each step": ((True, False, False), True),
    "each step, saves": ((True, False, True), True),
}


class Stopwatch:
    """Seconds since its creation: wall-clock time, and time of this process on all CPU cores."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> Float64[np.ndarray, 2]:
        return np.array([time.perf_counter(), time.process_time()])

    def seconds(self) -> Float64[np.ndarray, 2]:
        """Returns (wall-clock seconds, CPU seconds)."""
        return self._now() - self._start


class Benchmark:
    """Compiled steps and data of a config, shared by all variants."""

    def __init__(self) -> None:
        """Loads the config of the flags and its data set.

        Raises:
          ConfigError: the config cannot run on this machine, or --steps is too small.
        """
        from flaxres.data import load_dataset
        from flaxres.training.compiled_steps import CompiledSteps

        self.config = cli.get_config()
        self.config.num_steps = STEPS.value
        self.dataset = load_dataset(self.config.dataset)
        self.compiled_steps = CompiledSteps(self.config, self.dataset)
        self.dispatch_size = self.compiled_steps.steps_per_dispatch
        self.train = self.compiled_steps.put(self.dataset.train)
        splits = (self.dataset.test, self.dataset.validation)
        self.eval_splits = [self.compiled_steps.put(split) for split in splits if split is not None]
        self.config.num_steps -= self.config.num_steps % self.dispatch_size
        if self.config.num_steps < 2 * self.dispatch_size:
            raise ConfigError(
                f"--steps must be at least {2 * self.dispatch_size} (two dispatches), got "
                f"{STEPS.value}"
            )

    def time_bare_steps(self, with_evaluations: bool) -> Float64[np.ndarray, 2]:
        """Returns (wall-clock, CPU) seconds of the steps, without the training loop.

        Args:
          with_evaluations: if True, runs the evaluations of the config between the steps.
        """
        import jax

        state = self.compiled_steps.initial_state()
        train_steps = self.compiled_steps.compile_train_steps(state, self.train, self.dispatch_size)
        for split in self.eval_splits:
            self.compiled_steps.compile_evaluation(state, split)
        jax.block_until_ready(state)
        stopwatch = Stopwatch()
        sums = []
        for step in range(0, self.config.num_steps, self.dispatch_size):
            indices = self.compiled_steps.indices(step, self.dispatch_size)
            state, metrics = train_steps(state, self.train, indices)
            if with_evaluations and (step + self.dispatch_size) % self.config.eval_every == 0:
                sums += [
                    self.compiled_steps.launch_evaluation(state, split)
                    for split in self.eval_splits
                ]
        jax.block_until_ready((state, metrics, sums))
        return stopwatch.seconds()

    def time_loop(
        self, enabled: tuple[bool, bool, bool], synchronous: bool
    ) -> tuple[Float64[np.ndarray, 2], Float64[np.ndarray, " updates"]]:
        """Runs the training loop.

        Args:
          enabled: does the loop (log, evaluate, save)?
          synchronous: if True, waits for each dispatch and shows it, to time it.

        Returns:
          (wall-clock, CPU) seconds from the first step to the last, and the seconds between
          updates of the progress display.
        """
        import jax

        from flaxres.run.checkpoint import Checkpoints
        from flaxres.run.metric_writers import MetricWriters
        from flaxres.run.preemption import StopRequest
        from flaxres.run.records import Record
        from flaxres.run.terminal_writer import TerminalWriter
        from flaxres.training import initialization, loop

        class TimedTerminalWriter(TerminalWriter):
            stopwatch: Stopwatch
            seconds_by_step: dict[int, float]

            def restart_clock(self, step: int) -> None:
                super().restart_clock(step)
                # Everything is compiled by now.
                self.stopwatch, self.seconds_by_step = Stopwatch(), {step: 0.0}

            def is_due(self) -> bool:
                return synchronous or super().is_due()

            def update(self, step: int, record: Record | None = None, note: str = "") -> None:
                super().update(step, record, note)
                self.seconds_by_step.setdefault(step, self.stopwatch.seconds()[0])

        def due(config: ConfigDict, step: int) -> tuple[bool, ...]:
            periods = (config.log_every, config.eval_every, config.checkpoint_every)
            return tuple(e and step % p == 0 for e, p in zip(enabled, periods, strict=True))

        state = jax.block_until_ready(self.compiled_steps.initial_state())
        terminal = TimedTerminalWriter("model", self.config.num_steps)
        with (
            tempfile.TemporaryDirectory() as directory,
            mock.patch.object(loop, "due", due),
            mock.patch.object(loop, "MAX_AHEAD", 1 if synchronous else loop.MAX_AHEAD),
            terminal,
            Checkpoints(Path(directory), self.config.keep_checkpoints) as checkpoints,
            MetricWriters([Path(directory)], 0) as writers,
        ):
            run = loop.TrainLoop(
                self.config, self.compiled_steps, self.dataset, writers, checkpoints, terminal
            )
            run.run(initialization.completed(state), 0, StopRequest())
            seconds = terminal.stopwatch.seconds()
        return seconds, np.diff(list(terminal.seconds_by_step.values()))


def stall(
    dispatch_seconds: Float64[np.ndarray, " dispatches"],
) -> Float64[np.ndarray, 1]:
    """Returns how much longer the longest dispatch is than the median one, in dispatches."""
    return dispatch_seconds.max(keepdims=True) / np.median(dispatch_seconds) - 1


def measure_round(benchmark: Benchmark, number: int) -> dict[str, np.ndarray]:
    """Measures all variants once.

    Args:
      benchmark: the compiled steps.
      number: number of the round, which determines the variant to start with.

    Returns:
      The rows of the table by name: (wall-clock, CPU) values, or one value for a stall.
    """
    seconds, stalls = {}, {}
    variants = ["steps", "steps, evaluations", *LOOPS]
    first = number % len(variants)
    for variant in variants[first:] + variants[:first]:
        if variant in LOOPS:
            seconds[variant], times = benchmark.time_loop(*LOOPS[variant])
            # The first dispatch follows no other one.
            stalls[variant] = stall(times[1:]) * benchmark.dispatch_size
        else:
            seconds[variant] = benchmark.time_bare_steps(variant != "steps")
    cost = {variant: 100 * (s / seconds["steps"] - 1) for variant, s in seconds.items()}
    arithmetic = cost["steps, evaluations"]
    return {
        "bare step, ms": 1e3 * seconds["steps"] / benchmark.config.num_steps,
        "logs and progress, %": cost["logs"],
        "arithmetic of evaluations, %": arithmetic,
        "evaluations beyond it, %": cost["logs, evaluations"] - cost["logs"] - arithmetic,
        "logs, progress and evaluations beyond it, %": cost["logs, evaluations"] - arithmetic,
        "checkpoints, %": cost["logs, evaluations, saves"] - cost["logs, evaluations"],
        "stall with checkpoints, steps": stalls["each step, saves"],
        "stall without checkpoints, steps": stalls["each step"],
    }


def main() -> None:
    """Runs the rounds, prints a table and writes the results."""
    import jax

    benchmark = Benchmark()
    os.environ["FORCE_COLOR"] = "1"  # draws the progress bar as on a terminal
    with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        measure_round(benchmark, 0)  # compiles, and warms the caches
        rounds = [measure_round(benchmark, number) for number in range(ROUNDS.value)]
    del os.environ["FORCE_COLOR"]
    result = {
        name: [
            Spread.from_values(values)
            for values in np.stack([values_by_name[name] for values_by_name in rounds], axis=1)
        ]
        for name in rounds[0]
    }
    print_table(
        f"{ROUNDS.value} rounds of {benchmark.config.num_steps} steps: medians (quartiles)",
        ("", "wall clock", "all CPU cores"),
        [(name, *spreads, *[""] * (2 - len(spreads))) for name, spreads in result.items()],
    )
    device = jax.devices()[0].device_kind
    summary = {"device": device, "steps_per_dispatch": benchmark.dispatch_size} | result
    write_json(OUTPUT.value, summary)


if __name__ == "__main__":
    cli.run(main)
