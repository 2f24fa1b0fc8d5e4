"""Training speed of a model on random images, printed as JSON for the estimates of a sweep.

python -m experiments.sweeps.throughput --config=configs/digits.py:resnet-20
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from flaxres import cli

if TYPE_CHECKING:
    from flaxres.data import Dataset

SECONDS = 3.0  # duration of the measurement, after the compilation


def random_dataset(shape: tuple[int, int, int], num_classes: int, num_images: int) -> Dataset:
    """Creates a data set of random images and labels, with equal training and test splits.

    Args:
      shape: (height, width, channels) of the images.
      num_classes: number of classes.
      num_images: number of images.
    """
    import numpy as np

    from flaxres.data import Dataset, Split

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, *shape), dtype=np.uint8)
    split = Split(images, rng.integers(0, num_classes, num_images, dtype=np.int32))
    return Dataset("random", split, split, num_classes)


class Steps:
    """Training steps of a run, with as many steps per dispatch as in `flaxres.main`.

    Attributes:
      compiled_steps: compiled functions of the run.
      size: number of steps per dispatch.
    """

    def __init__(self, config: ConfigDict, dataset: Dataset):
        """Creates the initial train state and puts the data on the devices.

        Raises:
          UserError: the config cannot be run on this machine.
        """
        from flaxres.training.compiled_steps import CompiledSteps

        self.compiled_steps = CompiledSteps(config, dataset)
        self.size = self.compiled_steps.steps_per_dispatch
        self._step = 0
        self._state = self.compiled_steps.initial_state()
        self._arrays = self.compiled_steps.put(dataset.train)
        self._sums: Any = None  # metrics of the last dispatch

    def compile(self) -> None:
        """Compiles the steps."""
        self._compiled = self.compiled_steps.compile_train_steps(
            self._state, self._arrays, self.size
        )

    def cost(self) -> dict[str, float]:
        """Returns XLA's cost analysis of a dispatch, such as 'flops' and 'bytes accessed'."""
        return self._compiled.cost()

    def memory(self) -> dict[str, int]:
        """Returns the bytes of the data on the devices, the train state, and XLA's temporaries."""
        import jax

        data, state = (
            sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
            for tree in (self._arrays, self._state)
        )
        return {"data": data, "state": state, "temporaries": self._compiled.temporary_bytes()}

    def advance(self) -> int:
        """Launches the next dispatch; returns its number of steps."""
        indices = self.compiled_steps.indices(self._step, self.size)
        self._state, self._sums = self._compiled(self._state, self._arrays, indices)
        self._step += self.size
        return self.size

    def wait(self) -> None:
        """Waits until all launched steps are done."""
        import jax

        jax.block_until_ready(self._sums)


def make_step(config: ConfigDict) -> Callable[[], int]:
    """Compiles the training steps of a dispatch for random images and runs them once.

    On a CPU a dispatch has one step. On other devices it has as many as in `flaxres.main`, because
    there the launch of a single step takes longer than the step.

    Returns:
      A function that runs a dispatch, waits for its results and returns its number of steps.

    Raises:
      UserError: the config cannot be run on this machine.
    """
    import jax

    from flaxres.data import dataset_shape

    config = config.copy_and_resolve_references()
    if jax.default_backend() == "cpu":
        config.steps_per_dispatch = 1
    steps = Steps(config, random_dataset(*dataset_shape(config.dataset), config.batch_size))
    steps.compile()

    def advance() -> int:
        size = steps.advance()
        steps.wait()
        return size

    advance()
    return advance


def steps_per_second(advance: Callable[[], int], seconds: float) -> float:
    """Returns the number of steps per second.

    Args:
      advance: function that runs some steps and returns their number.
      seconds: minimum duration of the measurement.
    """
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        steps += advance()
    return steps / (time.perf_counter() - start)


def measure(config: ConfigDict) -> dict[str, float]:
    """Measures the time of the compilation and of a training step on random images.

    Returns:
      'start': seconds until the end of the first dispatch; 'step': seconds of each further step.

    Raises:
      UserError: the config cannot be run on this machine.
    """
    start_time = time.perf_counter()
    advance = make_step(config)
    start_seconds = time.perf_counter() - start_time
    return {"start": start_seconds, "step": 1 / steps_per_second(advance, SECONDS)}


def main() -> None:
    """Prints the speed of the config that the flags describe."""
    from flaxres.config import check_config
    from flaxres.memory_estimate import check_memory
    from flaxres.training.dispatches import choose_execution

    config = cli.get_config()
    check_config(config)
    choose_execution(config)
    check_memory(config)
    print(json.dumps(measure(config)))


def run() -> None:
    """Runs the command line."""
    cli.define_config("configs/digits.py:resnet-20")
    cli.run(main)


if __name__ == "__main__":
    run()
