"""The parts of a run beside the net: the data path, and evaluation.

python -m benchmarks.parts --config=configs/cifar10.py:resnet-20 --image=32,32,3

In rounds that take each in turn: whole train steps; the data path of a step alone (order, gather,
normalisation, augmentation); an evaluation of all images.
"""

from __future__ import annotations

import time

from absl import flags

from benchmarks.flaxres_side import IMAGE, IMAGES
from benchmarks.report import Spread, show, write
from flaxres import cli

ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds that take each part in turn.")
STEPS = flags.DEFINE_integer("steps", 10, "Train steps, and data paths, in a round.")
JSON = flags.DEFINE_string("json", None, "File for the result.")


def main() -> None:
    """Runs the rounds, prints a table and one JSON object."""
    import jax

    from experiments.sweeps.throughput import Steps, random_dataset
    from flaxres.data.augment import augment, normalize

    config = cli.get_config()
    dataset = random_dataset(tuple(map(int, IMAGE.value)), 10, IMAGES.value)
    steps = Steps(config, dataset)
    steps.compile()
    compiled_steps = steps.compiled_steps
    arrays, state = compiled_steps.put(dataset.train), compiled_steps.initial_state()

    @jax.jit
    def prepare(key, rows):
        images = normalize(arrays.images[rows], arrays.mean)
        pad, flip = config.augment.pad, config.augment.flip
        return augment(key, images, pad=pad, flip=flip), arrays.labels[rows]

    def train() -> float:
        begin, done = time.perf_counter(), 0
        while done < STEPS.value:
            done += steps.advance()
        steps.wait()
        return (time.perf_counter() - begin) / done

    def data() -> float:
        begin = time.perf_counter()
        for step in range(STEPS.value):
            batch = prepare(jax.random.key(step), compiled_steps.indices(step, 1)[0])
        jax.block_until_ready(batch)
        return (time.perf_counter() - begin) / STEPS.value

    def evaluate() -> float:
        begin = time.perf_counter()
        compiled_steps.evaluate(state, arrays)
        return (time.perf_counter() - begin) / len(dataset.train)

    parts = {"train step": train, "data path of a step": data, "evaluation of an image": evaluate}
    times = {name: [] for name in parts}
    for counted in range(ROUNDS.value + 1):
        for name, part in parts.items():
            seconds = part()
            if counted:  # the first compiles
                times[name].append(1e3 * seconds)
    image = times["train step"][0] / config.batch_size
    rows = [[name, Spread.of(own)] for name, own in times.items()]
    device = jax.devices()[0].device_kind
    show(f"{config.model.name}-{config.model.depth}, {device}", ("", "ms"), rows)
    spreads = {name: Spread.of(own) for name, own in times.items()}
    data_share = spreads["data path of a step"].median / spreads["train step"].median
    image = spreads["train step"].median / config.batch_size
    evaluation = spreads["evaluation of an image"].median / image
    print(
        f"the data path is {data_share:.1%} of a step; evaluating an image takes "
        f"{evaluation:.1%} of training on one"
    )
    write(JSON.value, {"device": device, "milliseconds": spreads})


if __name__ == "__main__":
    cli.define_config("configs/cifar10.py:resnet-20")
    cli.run(main)
