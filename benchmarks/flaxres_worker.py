"""Benchmark worker that runs the train step of flaxres.

python -m benchmarks.flaxres_worker --config=configs/cifar10.py:resnet-20

The steps are those of `flaxres.main`, including sampling, gather and augmentation, on random
images.
"""

from __future__ import annotations

import time
from typing import TypedDict

from absl import flags
from ml_collections import ConfigDict

from benchmarks.process import best_seconds, peak_memory, serve, timed_steps
from flaxres import cli

IMAGE = flags.DEFINE_list(
    "image", ["32", "32", "3"], "Height, width and channels of the images, such as 32,32,3."
)
IMAGES = flags.DEFINE_integer("images", 5_000, "Number of random training images.", lower_bound=1)
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
    multiply = jax.jit(lambda a: a @ a)
    x = jnp.zeros(copied // 4)
    copy = jax.jit(lambda x: x + 1)
    return {
        "flops": 2 * size**3 / best_seconds(lambda: multiply(a).block_until_ready()),
        "bytes": 2 * copied / best_seconds(lambda: copy(x).block_until_ready()),
    }


def checked_losses(config: ConfigDict, path: str) -> CheckedLosses:
    """Computes the losses of the first steps on one batch, without augmentation.

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
    from flaxres.training.steps import make_train_step
    from flaxres.training.train_state import create_state

    config = config.copy_and_resolve_references()
    config.augment.pad, config.augment.flip = 0, False
    config.learning_rate, config.warmup.enabled = CHECKED_LEARNING_RATE, False
    shape = image_shape()
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (config.batch_size, *shape), dtype=np.uint8)
    labels = rng.integers(0, 10, config.batch_size, dtype=np.int32)
    model, optimizer = create_model(config.model, 10, config.dtype), make_optimizer(config)
    state = jax.jit(lambda: create_state(model, optimizer, config, shape, seed=0))()
    weights = traverse_util.flatten_dict(jax.device_get(state.params), sep="/")
    np.savez(path, images=images, labels=labels, **weights)
    step = jax.jit(make_train_step(model, optimizer, config))
    losses = []
    for _ in range(CHECKED_STEPS):
        state, sums = step(
            state, normalize(jnp.asarray(images), np.zeros(shape, np.float32)), labels
        )
        losses.append(float(sums.loss) / config.batch_size)
    return {"losses": losses, "learning_rate": CHECKED_LEARNING_RATE}


def main() -> None:
    """Runs the first step, then answers requests."""
    import jax

    from experiments.sweeps.throughput import Steps, random_dataset
    from flaxres.models.layer_counts import summarize

    config = cli.get_config()
    shape = image_shape()
    steps = Steps(config, random_dataset(shape, 10, IMAGES.value))
    start = time.perf_counter()
    steps.compile()
    compile_seconds = time.perf_counter() - start
    steps.advance()
    steps.wait()

    from flaxres.models import create_model

    layers = summarize(create_model(config.model, 10), shape)
    memory_stats = jax.devices()[0].memory_stats() or {}
    serve(
        {
            "steps": lambda seconds: timed_steps(steps.advance, steps.wait, seconds),
            "ceiling": measure_ceiling,
            "check": lambda path: checked_losses(config, path),
            "memory": lambda: {
                "host": peak_memory(),
                "device": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0),
            },
        },
        device=jax.devices()[0].device_kind,
        platform=jax.default_backend(),
        version=f"jax {jax.__version__}",
        compile=compile_seconds,
        device_memory=bool(memory_stats),
        macs=sum(layer.macs for layer in layers),
        conv_outputs=sum(
            layer.output_shape[0] * layer.output_shape[1] * layer.output_shape[2]
            for layer in layers
            if layer.kind == "Conv"
        ),
    )


if __name__ == "__main__":
    cli.define_config("configs/cifar10.py:resnet-20")
    cli.run(main)
