"""Cost of the data path and of evaluation, compared with a train step.

python -m benchmarks.parts --config=configs/cifar10.py:resnet-20 --image=32,32,3

Each round measures whole train steps, the data path of a step by itself (sampling, gather,
normalization, augmentation), and an evaluation of all images.
"""

from __future__ import annotations

import time

from absl import flags

from benchmarks.flaxres_worker import IMAGES, image_shape
from benchmarks.report import Spread, print_table, write_json
from flaxres import cli

ROUNDS = flags.DEFINE_integer(
    "rounds", 7, "Number of rounds; each measures every part once.", lower_bound=1
)
STEPS = flags.DEFINE_integer(
    "steps", 10, "Train steps, and data paths of steps, per round.", lower_bound=1
)
JSON = flags.DEFINE_string(
    "json", None, "File for the JSON result, e.g. parts.json (default: print it)."
)


def main() -> None:
    """Runs the rounds, prints a table and writes the results."""
    import jax

    from flaxres.data.augment import augment
    from flaxres.experiments.sweeps.throughput import Steps, random_dataset

    config = cli.get_config()
    dataset = random_dataset(image_shape(), 10, IMAGES.value)
    steps = Steps(config, dataset)
    steps.compile()
    compiled_steps = steps.compiled_steps
    data, state = compiled_steps.put(dataset.train), compiled_steps.initial_state()

    @jax.jit
    def prepare_batch(key: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        images, labels = data.batch(rows)
        pad, flip = config.augment.pad, config.augment.flip
        return augment(key, images, pad=pad, flip=flip), labels

    def time_train_step() -> float:
        start, num_steps = time.perf_counter(), 0
        while num_steps < STEPS.value:
            num_steps += steps.advance()
        steps.wait()
        return (time.perf_counter() - start) / num_steps

    def time_data_path() -> float:
        start = time.perf_counter()
        for step in range(STEPS.value):
            batch = prepare_batch(jax.random.key(step), compiled_steps.indices(step, 1)[0])
        jax.block_until_ready(batch)
        return (time.perf_counter() - start) / STEPS.value

    def time_evaluation() -> float:
        start = time.perf_counter()
        compiled_steps.evaluate(state, data)
        return (time.perf_counter() - start) / len(dataset.train)

    parts = {
        "train step": time_train_step,
        "data path of a step": time_data_path,
        "evaluation of an image": time_evaluation,
    }
    milliseconds: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(ROUNDS.value + 1):
        for name, measure in parts.items():
            seconds = measure()
            if number:  # the first round compiles
                milliseconds[name].append(1e3 * seconds)
    spreads = {name: Spread.from_values(times) for name, times in milliseconds.items()}
    device = jax.devices()[0].device_kind
    title = f"{config.model.name}-{config.model.depth}, {device}"
    print_table(title, ("", "ms"), list(spreads.items()))
    step = spreads["train step"].median
    data_share = spreads["data path of a step"].median / step
    evaluation_share = spreads["evaluation of an image"].median / (step / config.batch_size)
    print(
        f"The data path takes {data_share:.1%} of a step; evaluating an image takes "
        f"{evaluation_share:.1%} of training on one."
    )
    write_json(JSON.value, {"device": device, "milliseconds": spreads})


if __name__ == "__main__":
    cli.define_config("configs/cifar10.py:resnet-20")
    cli.run(main)
