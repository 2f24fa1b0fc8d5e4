"""Your own training loop for a residual network on the digits: python examples/own_loop.py.

The model is a Flax module, and its train step is a function of a train state and a batch. The loop
around them is yours: what it trains, when it evaluates, what it keeps.
"""

from __future__ import annotations

import functools

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

import flaxres
from flaxres.data import Dataset, load_dataset
from flaxres.data.augment import normalize
from flaxres.data.sampler import EpochSampler
from flaxres.training.optimizer import make_optimizer
from flaxres.training.steps import make_train_step
from flaxres.training.train_state import TrainState, create_state


def train(model: nn.Module, config: ConfigDict, dataset: Dataset) -> TrainState:
    """Trains a model for `config.num_steps` steps and returns its last state."""
    optimizer = make_optimizer(config)
    state = create_state(model, optimizer, config, dataset.image_shape, config.seed)
    train_step = make_train_step(model, optimizer, config)  # augments, differentiates, updates
    mean = dataset.mean_image()

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, images: jax.Array, labels: jax.Array) -> tuple[TrainState, dict]:
        state, sums = train_step(state, normalize(images, mean), labels)
        return state, {"loss": sums.loss / sums.count, "error": 100 * sums.wrong / sums.count}

    sampler = EpochSampler(len(dataset.train), config.batch_size, config.seed)
    for number, (rows,) in enumerate(map(sampler.indices, range(config.num_steps)), start=1):
        state, metrics = step(state, dataset.train.images[rows], dataset.train.labels[rows])
        if number % config.log_every == 0:
            loss, error = float(metrics["loss"]), float(metrics["error"])
            print(f"step {number}: loss {loss:.3f}, training error {error:.1f} %")
    return state


def test_error(model: nn.Module, state: TrainState, dataset: Dataset) -> float:
    """Returns the percentage of misclassified test images."""
    images = normalize(jax.numpy.asarray(dataset.test.images), dataset.mean_image())
    logits = jax.jit(functools.partial(model.apply, train=False))(state.variables, images)
    return float(100 * np.mean(np.argmax(logits, axis=1) != dataset.test.labels))


def main(model_name: str = "resnet-20", num_steps: int = 100) -> float:
    """Trains a model on the digits and returns its test error in percent."""
    config = flaxres.get_config(f"digits:{model_name}", num_steps=num_steps, boundaries=())
    dataset = load_dataset(config.dataset)
    model = flaxres.create_model(model_name, num_classes=dataset.num_classes)
    state = train(model, config, dataset)
    error = test_error(model, state, dataset)
    print(f"test error {error:.1f} %")
    return error


if __name__ == "__main__":
    flaxres.tune()  # optional: the settings of flaxres's commands for CPUs
    main()
