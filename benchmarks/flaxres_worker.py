"""Benchmark worker that runs train steps or evaluations of flaxres.

python -m benchmarks.flaxres_worker --config=configs/cifar10.py:resnet-20

Steps and evaluations are those of `flaxres.main`, including sampling, gather and augmentation, on
random images. The "steps" of an evaluation are its images.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict

from absl import flags
from ml_collections import ConfigDict

from benchmarks.process import best_seconds, peak_memory, resident_memory, serve, timed_steps
from flaxres import cli

if TYPE_CHECKING:
    from flaxres.data import Dataset
    from flaxres.training.metrics import MetricSums

IMAGE = flags.DEFINE_list(
    "image", ["32", "32", "3"], "Height, width and channels of the images, such as 32,32,3."
)
TASK = flags.DEFINE_enum(
    "task", "training", ["training", "evaluation"], "What to run: 'training' or 'evaluation'."
)
IMAGES = flags.DEFINE_integer("images", 5_000, "Number of random images.", lower_bound=1)
# For the comparison with PyTorch: a learning rate so low that rounding errors do not grow.
CHECKED_STEPS, CHECKED_LEARNING_RATE = 3, 1e-4


class CheckedLosses(TypedDict):
    """Losses of the first steps, and the learning rate they were computed with."""

    losses: list[float]
    learning_rate: float


def image_shape() -> tuple[int, int, int]:
    """Returns the (height, width, channels) of --image."""
    height, width, channels = map(int, IMAGE.value)
    return height, width, channels


def measure_ceiling(dtype: str, size: int, copied: int) -> dict[str, float]:
    """Measures the speed of a large matrix product and of a large copy.

    Args:
      dtype: dtype of the matrices.
      size: number of rows and columns of the matrices.
      copied: size of the copied array, in bytes.

    Returns:
      'flops', in FLOP/s, and 'bytes', read and written per second.
    """
    import jax
    import jax.numpy as jnp

    a = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
    x = jnp.zeros(copied // 4)
    multiply, copy = _ceiling_functions()
    return {
        "flops": 2 * size**3 / best_seconds(lambda: multiply(a).block_until_ready()),
        "bytes": 2 * copied / best_seconds(lambda: copy(x).block_until_ready()),
    }


@functools.cache  # compiled in the first round only
def _ceiling_functions() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns the product of a matrix with itself, and a function that copies an array."""
    import jax

    return jax.jit(lambda a: a @ a), jax.jit(lambda x: x + 1)


def checked_losses(config: ConfigDict, path: str) -> CheckedLosses:
    """Computes losses on one batch, without augmentation: of the first steps, or of an evaluation.

    In the evaluation, the running statistics are those of the batch.

    Args:
      config: config of the run.
      path: file that receives the initial weights and the batch, for the PyTorch worker.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import traverse_util

    from flaxres.data.augment import normalize
    from flaxres.models import create_model
    from flaxres.training.optimizer import make_optimizer
    from flaxres.training.steps import DeviceData, make_evaluate, make_train_step
    from flaxres.training.train_state import create_state

    config = config.copy_and_resolve_references()
    config.augment.pad, config.augment.flip = 0, False
    config.learning_rate, config.warmup.enabled = CHECKED_LEARNING_RATE, False
    config.model.norm_momentum = 0.0  # running statistics of the last batch only
    shape = image_shape()
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (config.batch_size, *shape), dtype=np.uint8)
    labels = rng.integers(0, 10, config.batch_size, dtype=np.int32)
    inputs = normalize(jnp.asarray(images), np.zeros(shape, np.float32))
    model, optimizer = create_model(config.model, 10, config.dtype), make_optimizer(config)
    state = jax.jit(lambda: create_state(model, optimizer, config, shape, seed=0))()
    if TASK.value == "evaluation":
        _, updated = jax.jit(lambda: model.apply(state.variables, inputs, True, mutable=True))()
        state = dataclasses.replace(state, batch_stats=updated["batch_stats"])
    weights = traverse_util.flatten_dict(jax.device_get(state.variables), sep="/")
    np.savez(path, images=images, labels=labels, **weights)
    losses = []
    if TASK.value == "evaluation":
        data = DeviceData.from_images(
            jnp.asarray(images), jnp.asarray(labels), np.zeros(shape, np.float32)
        )
        rows = np.arange(config.batch_size, dtype=np.int32)[None]
        losses.append(float(jax.jit(make_evaluate(model))(state, data, rows).loss))
    else:
        step = jax.jit(make_train_step(model, optimizer, config))
        for _ in range(CHECKED_STEPS):
            state, sums = step(state, inputs, labels)
            losses.append(float(sums.loss))
    means = [loss / config.batch_size for loss in losses]
    return {"losses": means, "learning_rate": CHECKED_LEARNING_RATE}


def count_layers(config: ConfigDict) -> dict[str, int]:
    """Returns the multiply-adds of an image, 'macs', and the convolutions' outputs of an image."""
    from flaxres.models import create_model
    from flaxres.models.layer_counts import summarize

    layers = summarize(create_model(config.model, 10), image_shape())
    outputs = (layer.output_shape for layer in layers if layer.kind == "Conv")
    return {
        "macs": sum(layer.macs for layer in layers),
        "conv_outputs": sum(height * width * filters for height, width, filters in outputs),
    }


class Evaluations:
    """Evaluations of all images, with the interface of `throughput.Steps`; a step is an image."""

    def __init__(self, config: ConfigDict, dataset: Dataset):
        """Creates the initial train state and puts the data on the devices."""
        from flaxres.training.compiled_steps import CompiledSteps

        self._steps = CompiledSteps(config, dataset)
        self._state = self._steps.initial_state()
        self._arrays = self._steps.put(dataset.train)
        self._sums: list[MetricSums] = []

    def compile(self) -> None:
        """Compiles the evaluation."""
        self._steps.compile_evaluation(self._state, self._arrays)

    def advance(self) -> int:
        """Launches the evaluation of all images; returns their number."""
        self._sums = self._steps.launch_evaluation(self._state, self._arrays)
        return len(self._arrays.labels)

    def wait(self) -> None:
        """Waits until all launched evaluations are done."""
        import jax

        jax.block_until_ready(self._sums)


def main() -> None:
    """Runs the first step, then answers requests."""
    import jax

    from flaxres.experiments.sweeps.throughput import Steps, random_dataset
    from flaxres.training.dispatches import choose_execution

    config = cli.get_config()
    shape = image_shape()
    trains = TASK.value == "training"
    if trains:
        config.dataset.image_size = shape[0]
        choose_execution(config)
    jax.devices()
    imports = resident_memory()
    dataset = random_dataset(shape, 10, IMAGES.value)
    steps = Steps(config, dataset) if trains else Evaluations(config, dataset)
    start = time.perf_counter()
    steps.compile()
    compile_seconds = time.perf_counter() - start
    start_peak = peak_memory()
    steps.advance()
    steps.wait()
    parts = {"imports": imports, "images on the host": dataset.train.images.nbytes}
    if isinstance(steps, Steps):
        parts |= steps.memory()
    serve(
        {
            "steps": lambda seconds: timed_steps(steps.advance, steps.wait, seconds),
            "layers": lambda: count_layers(config),
            "ceiling": measure_ceiling,
            "check": lambda path: checked_losses(config, path),
            "memory": lambda: {
                "host": peak_memory(),
                "start": start_peak,
                "parts": parts,
                "device": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0),
            },
        },
        device=jax.devices()[0].device_kind,
        platform=jax.default_backend(),
        version=f"jax {jax.__version__}",
        compile=compile_seconds,
    )


if __name__ == "__main__":
    cli.define_config("configs/cifar10.py:resnet-20")
    cli.run(main)
