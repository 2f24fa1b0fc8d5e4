"""Measures the speed of a net for the estimates of a sweep; prints it as JSON.

python -m experiments.sweeps.throughput --config=configs/digits.py:resnet-20
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from flaxres import cli

if TYPE_CHECKING:
    from flaxres.data import Dataset

SECONDS = 3.0  # of steps, after the compilation


def random_dataset(shape: tuple[int, int, int], num_classes: int, num_images: int) -> Dataset:
    """Random images of `shape` (height, width, channels) with random labels, as both splits."""
    import numpy as np

    from flaxres.data import Dataset, Split

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, *shape), dtype=np.uint8)
    split = Split(images, rng.integers(0, num_classes, num_images, dtype=np.int32))
    return Dataset("random", split, split, num_classes)


class Steps:
    """The train steps of a run, as many in each dispatch as `flaxres.main` takes.

    Attributes:
      programs: the run's.
      size: steps in a dispatch.
    """

    def __init__(self, config: ConfigDict, dataset: Dataset):
        """Builds the state before the first step.

        Raises:
          UserError: the config cannot be run here.
        """
        from flaxres.training.compiled_steps import CompiledSteps
        from flaxres.training.dispatches import steps_per_dispatch

        self.compiled_steps = CompiledSteps(config, dataset)
        self.size = steps_per_dispatch(config)
        self._step = 0
        self._state = self.compiled_steps.initial_state()
        self._arrays = self.compiled_steps.put(dataset.train)
        self._sums = None

    def compile(self) -> None:
        """Compiles the steps."""
        self._compiled = self.compiled_steps.compile_train_steps(
            self._state, self._arrays, self.size
        )

    def cost(self) -> dict[str, float]:
        """XLA's own count of a dispatch: 'flops' and 'bytes accessed', where it has one."""
        return self._compiled.cost()

    def advance(self) -> int:
        """Starts the next dispatch; returns its number of steps."""
        indices = self.compiled_steps.indices(self._step, self.size)
        self._state, self._sums = self._compiled(self._state, self._arrays, indices)
        self._step += self.size
        return self.size

    def wait(self) -> None:
        """Returns when all steps are done."""
        import jax

        jax.block_until_ready(self._sums)


def make_step(config: ConfigDict) -> Callable[[], None]:
    """Compiles the step of a run, for random images; returns a function that makes one.

    Raises:
      UserError: the config cannot be run here.
    """
    from flaxres.data import dataset_shape

    config = config.copy_and_resolve_references()
    config.steps_per_dispatch = 1
    steps = Steps(config, random_dataset(*dataset_shape(config.dataset), config.batch_size))
    steps.compile()

    def advance() -> None:
        steps.advance()
        steps.wait()

    advance()
    return advance


def steps_per_second(advance: Callable[[], None], seconds: float) -> float:
    """How often `advance` can be called, over at least so many seconds."""
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        advance()
        steps += 1
    return steps / (time.perf_counter() - begin)


def measure(config: ConfigDict) -> dict[str, float]:
    """Times compilation and steps on random images.

    Returns:
      start: seconds until the first step is done; step: seconds of each that follows.

    Raises:
      UserError: the config cannot be run here.
    """
    begin = time.perf_counter()
    advance = make_step(config)
    start = time.perf_counter() - begin
    return {"start": start, "step": 1 / steps_per_second(advance, SECONDS)}


def main() -> None:
    """Measures the net that the flags name."""
    print(json.dumps(measure(cli.get_config())))


def run() -> None:
    """Runs the command line."""
    cli.define_config("configs/digits.py:resnet-20")
    cli.run(main)


if __name__ == "__main__":
    run()
