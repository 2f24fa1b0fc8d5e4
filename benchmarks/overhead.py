"""What logs, progress display, evaluations and checkpoints cost beside the steps of a run.

python -m benchmarks.overhead --config=configs/digits.py:resnet-20

Measures the same compiled steps in rounds that take each way in turn: the bare steps; the bare
steps with the evaluations of the config; and the loop of a run with parts of what it does besides.
All costs are percent of the time of the bare steps in the same round. The stall of a checkpoint is
how much longer the longest step of a round is than the median one, in steps; steps are timed
without evaluations, and beside it stands the same figure without checkpoints.
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

# Whether the loop logs, evaluates and saves.
LOOPS = {
    "logs": (True, False, False),
    "logs, saves": (True, False, True),
    "logs, evaluations": (True, True, False),
    "logs, evaluations, saves": (True, True, True),
}


class Measured:
    """The programs and data of a config, compiled once for all ways."""

    def __init__(self):
        """Loads the data set of the flags' config.

        Raises:
          ConfigError: the config cannot be run here, or --steps are too few.
        """
        from flaxres.data import load_dataset
        from flaxres.programs import Programs, steps_per_dispatch

        self.config = cli.get_config()
        self.config.num_steps = STEPS.value
        self.dataset = load_dataset(self.config.dataset)
        self.programs = Programs(self.config, self.dataset)
        self.dispatch = steps_per_dispatch(self.config)
        self.train = self.programs.put(self.dataset.train)
        splits = (self.dataset.test, self.dataset.validation)
        self.evaluated = [self.programs.put(split) for split in splits if split is not None]
        self.config.num_steps -= self.config.num_steps % self.dispatch
        if self.config.num_steps < 2 * self.dispatch:
            raise ConfigError(
                f"--steps must be at least {2 * self.dispatch}, two dispatches, got {STEPS.value}"
            )

    def bare(self, evaluates: bool) -> float:
        """Seconds of the steps alone, or with the evaluations that are due among them."""
        import jax

        state = self.programs.initial_state()
        steps = self.programs.compile_train_steps(state, self.train, self.dispatch)
        for split in self.evaluated:
            self.programs.compile_evaluation(state, split)
        jax.block_until_ready(state)
        begin = time.perf_counter()
        sums = []
        for step in range(0, self.config.num_steps, self.dispatch):
            rows = self.programs.indices(step, self.dispatch)
            state, metrics = steps(state, self.train, rows)
            if evaluates and (step + self.dispatch) % self.config.eval_every == 0:
                sums += [self.programs.launch_evaluation(state, split) for split in self.evaluated]
        jax.block_until_ready((state, metrics, sums))
        return time.perf_counter() - begin

    def loop(self, kept: tuple[bool, bool, bool], workdir: Path) -> tuple[float, np.ndarray]:
        """Seconds of a run's loop from its first step to its last, and those of each dispatch."""
        import jax

        from flaxres import loop
        from flaxres.checkpoint import Checkpoints
        from flaxres.signals import StopRequest
        from flaxres.writers import Terminal, Writers

        times = []

        class Timed(Terminal):
            def restart_clock(self, step: int) -> None:
                super().restart_clock(step)
                times[:] = [time.perf_counter()]  # once all is compiled

            def update(self, step: int, record=None, note: str = "") -> None:
                super().update(step, record, note)
                if record is not None and step > seen[0]:  # not again for the record
                    seen[0] = step
                    times.append(time.perf_counter())

        seen = [0]

        def due(config, step: int) -> tuple[bool, ...]:
            periods = (config.log_every, config.eval_every, config.checkpoint_every)
            return tuple(k and step % p == 0 for k, p in zip(kept, periods, strict=True))

        state = jax.block_until_ready(self.programs.initial_state())
        with (
            mock.patch.object(loop, "due", due),
            Timed("net", self.config.num_steps) as terminal,
            Checkpoints(workdir, self.config.keep_checkpoints) as checkpoints,
            Writers([workdir], 0) as writers,
        ):
            run = loop.Loop(
                self.config, self.programs, self.dataset, writers, checkpoints, terminal
            )
            run.run(state, 0, StopRequest())
            seconds = time.perf_counter() - times[0]
        return seconds, np.diff(times)


def stall(times: np.ndarray) -> float:
    """How much longer the longest dispatch is than the median one, in dispatches."""
    return float(times.max() / np.median(times) - 1)


def measure(measured: Measured, number: int) -> dict[str, float]:
    """One round: costs in percent of the bare steps, and stalls in steps."""
    seconds, stalls = {}, {}
    ways = ["steps", "steps, evaluations", *LOOPS]
    for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
        if way not in LOOPS:
            seconds[way] = measured.bare(way != "steps")
            continue
        with tempfile.TemporaryDirectory() as workdir:
            seconds[way], times = measured.loop(LOOPS[way], Path(workdir))
        stalls[way] = stall(times[1:])  # the first has had no other before it
    cost = {way: 100 * (s / seconds["steps"] - 1) for way, s in seconds.items()}
    return {
        "bare_step_ms": 1e3 * seconds["steps"] / measured.config.num_steps,
        "logs_and_progress_percent": cost["logs"],
        "evaluation_arithmetic_percent": cost["steps, evaluations"],
        "evaluation_beyond_percent": cost["logs, evaluations"]
        - cost["logs"]
        - cost["steps, evaluations"],
        "logs_and_evaluation_beyond_percent": cost["logs, evaluations"]
        - cost["steps, evaluations"],
        "checkpoints_percent": cost["logs, evaluations, saves"] - cost["logs, evaluations"],
        "stall_with_checkpoints_steps": stalls["logs, saves"] * measured.dispatch,
        "stall_without_checkpoints_steps": stalls["logs"] * measured.dispatch,
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
    result = {name: Spread.of([one[name] for one in rounds]) for name in rounds[0]}
    show(
        f"{ROUNDS.value} rounds of {measured.config.num_steps} steps: median (quartiles)",
        ("", "all rounds"),
        [(name.replace("_", " "), spread) for name, spread in result.items()],
    )
    device = jax.devices()[0].device_kind
    write(OUTPUT.value, {"device": device, "dispatch": measured.dispatch} | result)


if __name__ == "__main__":
    cli.run(main)
