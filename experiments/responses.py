"""How strongly each 3x3 layer responds: figure 7 of He15 (arXiv 1512.03385)."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.runs import RESPONSES_FILE
from flaxres.checkpoint import Checkpoints
from flaxres.data import load_dataset
from flaxres.data.augment import normalise
from flaxres.errors import CheckpointError, ConfigError
from flaxres.models import create_model
from flaxres.programs import Programs

NORMS = ("norm", "norm1", "norm2")  # those that follow a 3x3 convolution


def layer_responses(
    model: nn.Module, variables: dict, images: np.ndarray, mean: np.ndarray, batch_size: int
) -> dict[str, float]:
    """Standard deviation of each 3x3 layer's response: after its norm, before ReLU or addition.

    Over all images, positions and channels, with running statistics, in a stream of batches.

    Args:
      model: of `flaxres.models`.
      variables: its 'params' and 'batch_stats'.
      images: uint8 (n, height, width, channels).
      mean: float32 (height, width, channels), subtracted from the images in 0..1.
      batch_size: images at a time; the result does not depend on it but for rounding.

    Returns:
      By layer, from the first on; the names are those of the norms, e.g. stage1_block1/norm2.
    """

    @jax.jit
    def moments(variables: dict, batch: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
        found = {}

        def watch(call, arguments, options, context):
            module = context.module
            if context.method_name != "__call__" or module.name not in NORMS:
                return call(*arguments, **options)
            response = call(*arguments)  # the norm alone
            found["/".join(module.path)] = (response.mean(), response.var())
            add = options.get("add")
            y = response if add is None else response + add
            return nn.relu(y) if options.get("relu") else y

        with nn.intercept_methods(watch):
            model.apply(variables, normalise(batch, mean), train=False)
        return found

    count, means, squares = 0, {}, {}
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        # Chan, Golub and LeVeque 1983: the moments of two sets from those of each.
        total = count + len(batch)
        for layer, own in moments(variables, batch).items():
            own_mean, own_variance = map(float, own)
            distance = own_mean - means.get(layer, 0.0)
            means[layer] = means.get(layer, 0.0) + distance * len(batch) / total
            squares[layer] = squares.get(layer, 0.0) + own_variance * len(batch)
            squares[layer] += distance**2 * count * len(batch) / total
        count = total
    layers = sorted(squares, key=_position)  # jit returns them by name
    return {layer: float(np.sqrt(squares[layer] / count)) for layer in layers}


def _position(layer: str) -> tuple[int, ...]:
    """Where a layer is in its net: the numbers in its name."""
    digits = "".join(c if c.isdigit() else " " for c in layer)
    return tuple(map(int, digits.split()))


def responses_of_run(config: ConfigDict, workdir: Path, say: Callable[[str], None]) -> dict:
    """`layer_responses` of the newest checkpoint of a run, over its test split.

    Raises:
      UserError: there is no checkpoint, or no data.
    """
    if config.num_replicas > 1:
        raise ConfigError("layer responses are of one net; a run of several replicas has several")
    dataset = load_dataset(config.dataset)
    with Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(Programs(config, dataset).state_shape, say)
    if state is None:
        raise CheckpointError(f"workdir {workdir} holds no checkpoint yet")
    unrolled = config.model.copy_and_resolve_references()
    unrolled.scan = False  # in a loop no layer has a name
    model = create_model(unrolled, dataset.num_classes, config.dtype)
    test, mean = dataset.test.images, jnp.asarray(dataset.mean_image())
    return layer_responses(model, state.variables, test, mean, config.eval_batch_size)


def write_responses(responses: dict[str, float], directory: Path) -> None:
    """Writes responses.csv: a line for each layer."""
    with (directory / RESPONSES_FILE).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("layer", "std"))
        writer.writerows((layer, f"{std:.6g}") for layer, std in responses.items())
