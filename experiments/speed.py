"""Measures the speed of a net for the estimates of a sweep; prints it as JSON.

python -m experiments.speed --config=configs/digits.py:resnet-20
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from ml_collections import ConfigDict

from flaxres import cli

SECONDS = 3.0  # of steps, after the compilation


def make_step(config: ConfigDict) -> Callable[[], None]:
    """Compiles the step of a run, for random images; returns a function that makes one.

    Raises:
      UserError: the config cannot be run here.
    """
    import jax
    import numpy as np

    from flaxres.data import Dataset, Split, dataset_shape
    from flaxres.programs import Programs

    shape, num_classes = dataset_shape(config.dataset)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (config.batch_size, *shape), dtype=np.uint8)
    split = Split(images, rng.integers(0, num_classes, config.batch_size, dtype=np.int32))
    programs = Programs(config, Dataset("random", split, split, num_classes))
    state, arrays, rows = programs.initial_state(), programs.put(split), programs.indices(0, 1)
    step = programs.compile_train_steps(state, arrays, 1)

    def advance() -> None:
        nonlocal state
        state, sums = step(state, arrays, rows)
        jax.block_until_ready(sums)

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


if __name__ == "__main__":
    cli.define_config("configs/digits.py:resnet-20")
    cli.run(main)
