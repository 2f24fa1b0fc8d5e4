"""A worker with flaxres's own train step: python -m benchmarks.flaxres_side --config=...

The step is the one that `flaxres.main` runs: order, data path and augmentation included, on random
images.
"""

from __future__ import annotations

import time

from absl import flags

from benchmarks.process import best_seconds, peak_memory, serve, timed_steps
from flaxres import cli

IMAGE = flags.DEFINE_list("image", ["32", "32", "3"], "Height, width and channels.")
IMAGES = flags.DEFINE_integer("images", 5_000, "Random images to train on.")
# Compared with a peer: so low a rate that rounding does not grow from step to step.
CHECKED_STEPS, CHECKED_RATE = 3, 1e-4


def ceiling(dtype: str, size: int, copied: int) -> dict[str, float]:
    """The rates of a large matrix product, in FLOP/s, and a large copy, in bytes/s read + written.

    Args:
      dtype: of the matrices.
      size: of their sides.
      copied: bytes.
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


def checked_losses(config, path: str) -> dict[str, list[float] | float]:
    """Losses of the first steps, on one batch without augmentation, from weights kept in `path`."""
    import jax
    import numpy as np
    from flax import traverse_util

    from flaxres.data.augment import normalize
    from flaxres.models import create_model
    from flaxres.training.optimizer import make_optimizer
    from flaxres.training.steps import make_train_step
    from flaxres.training.train_state import create_state

    config = config.copy_and_resolve_references()
    config.augment.pad, config.augment.flip = 0, False
    config.learning_rate, config.warmup.enabled = CHECKED_RATE, False
    shape = tuple(map(int, IMAGE.value))
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
        state, sums = step(state, normalize(images, np.zeros(shape, np.float32)), labels)
        losses.append(float(sums.loss) / config.batch_size)
    return {"losses": losses, "learning_rate": CHECKED_RATE}


def main() -> None:
    """Makes the first step, then serves."""
    import jax

    from experiments.sweeps.throughput import Steps, random_dataset
    from flaxres.models.layer_counts import summarize

    config = cli.get_config()
    shape = tuple(map(int, IMAGE.value))
    steps = Steps(config, random_dataset(shape, 10, IMAGES.value))
    begin = time.perf_counter()
    steps.compile()
    compiled = time.perf_counter() - begin
    steps.advance()
    steps.wait()

    from flaxres.models import create_model

    layers = summarize(create_model(config.model, 10), shape)
    stats = jax.devices()[0].memory_stats() or {}
    serve(
        {
            "steps": lambda seconds: timed_steps(steps.advance, steps.wait, seconds),
            "ceiling": ceiling,
            "check": lambda path: checked_losses(config, path),
            "memory": lambda: {
                "host": peak_memory(),
                "device": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0),
            },
        },
        device=jax.devices()[0].device_kind,
        platform=jax.default_backend(),
        version=f"jax {jax.__version__}",
        compile=compiled,
        device_memory=bool(stats),
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
