"""A deeper model built from a trained one and identity layers, with the same outputs.

He15 (arXiv 1512.03385), section 1, uses this construction to argue that a deeper model should not
have a higher training error. Blocks are added at the end of each stage; all other weights are those
of the trained model.

In a plain model each added layer is an identity. Its kernel is 1 at the center, from each channel
to itself. The running statistics of its batch norm are those of its input over the training images,
and its scale and bias undo the normalization. The input comes from a ReLU, so the ReLU of the added
layer does not change it. In evaluation such layers are identities except for rounding; in training
only as far as the statistics of a batch equal those of all images.

In a residual model the added blocks are initialized as usual, from the seed of the run, except that
scale and bias of their last norm are zero. Such a block equals its identity shortcut, also in
training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8
from ml_collections import ConfigDict

from flaxres.config import model_name
from flaxres.data import Dataset
from flaxres.data.augment import normalize
from flaxres.data.sampler import evaluation_batches
from flaxres.errors import ConfigError
from flaxres.experiments.analyses.base import (
    TrainedRun,
    Variables,
    predict_logits,
    single_device_config,
)
from flaxres.inference.population_statistics import MomentAccumulator
from flaxres.models.resnet import stages_of_depth
from flaxres.training.compiled_steps import CompiledSteps

MAY_DIFFER = ("depth", "remat", "scan")  # fields of `config.model`


def check_deeper(shallow: ConfigDict, deeper: ConfigDict) -> None:
    """Checks that a deeper model can be built from a model and identity blocks.

    Args:
      shallow: fields of the trained model, `config.model`.
      deeper: fields of the model to build.

    Raises:
      ConfigError: the trained model has no identity blocks, the models differ in more than depth,
        or the second is not deeper.
    """
    name = model_name(shallow)
    has_identity_blocks = (
        shallow.name in ("plain", "resnet")
        and shallow.block == "basic"
        and shallow.shortcut in ("none", "A", "B")
        and shallow.norm == "batch"
    )
    if not has_identity_blocks:
        raise ConfigError(
            "identity blocks require a plain model or a residual model with shortcut A or B, with "
            f"basic blocks and batch norm; got {name} with model.norm={shallow.norm!r}"
        )
    if shallow.name == "plain" and shallow.se_reduction:
        raise ConfigError(
            f"layers with squeeze-and-excitation are no identities; got {name} with "
            f"model.se_reduction={shallow.se_reduction}"
        )
    if shallow.drop_path and shallow.drop_path_scope == "batch":
        raise ConfigError(
            "model.drop_path_scope='batch' multiplies the residual branches in evaluation by "
            f"factors that depend on the depth, so a deeper model than {name} computes other "
            f"outputs; got model.drop_path={shallow.drop_path}"
        )
    for field in shallow:
        if field not in MAY_DIFFER and shallow[field] != deeper[field]:
            raise ConfigError(
                f"the deeper model must differ from {name} only in depth, got model.{field}="
                f"{deeper[field]!r} instead of {shallow[field]!r}"
            )
    try:
        counts = [stages_of_depth(m.depth, m.block, m.stem) for m in (shallow, deeper)]
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if counts[0] == counts[1] or any(a > b for a, b in zip(*counts, strict=True)):
        raise ConfigError(f"the deeper model must be deeper than {name}, got {model_name(deeper)}")


def added_blocks(shallow: ConfigDict, deeper: ConfigDict) -> dict[str, str]:
    """Returns the name of each added block, with the name of the trained stage's last block.

    Args:
      shallow: fields of the trained model.
      deeper: fields of the model to build, which `check_deeper` accepts.
    """
    counts = [stages_of_depth(m.depth, m.block, m.stem) for m in (shallow, deeper)]
    return {
        f"stage{stage}_block{block}": f"stage{stage}_block{shallow_count}"
        for stage, (shallow_count, deeper_count) in enumerate(zip(*counts, strict=True), start=1)
        for block in range(shallow_count + 1, deeper_count + 1)
    }


def identity_block(
    statistics: Mapping[str, Float[np.ndarray, " channels"]], epsilon: float
) -> Variables:
    """Returns the variables of a plain block that is an identity for inputs with these statistics.

    With mean m and variance v the norm computes (x - m) / sqrt(v + epsilon) * scale + bias, so
    scale sqrt(v + epsilon) and bias m return x, also if v is zero.

    Args:
      statistics: 'mean' and 'var' of the block's input by channel.
      epsilon: epsilon of the norm.

    Returns:
      'params' and 'batch_stats' of a `BasicBlock`, float32.
    """
    mean, var = (np.asarray(statistics[name], np.float32) for name in ("mean", "var"))
    kernel = np.zeros((3, 3, len(mean), len(mean)), np.float32)
    kernel[1, 1] = np.eye(len(mean))
    scale = np.sqrt(var.astype(np.float64) + epsilon).astype(np.float32)
    params, batch_stats = {}, {}
    for number in (1, 2):
        params[f"conv{number}"] = {"kernel": kernel.copy()}
        params[f"norm{number}"] = {"scale": scale.copy(), "bias": mean.copy()}
        batch_stats[f"norm{number}"] = {"mean": mean.copy(), "var": var.copy()}
    return {"params": params, "batch_stats": batch_stats}


def zero_residual_branch(block: Variables) -> Variables:
    """Returns the variables of a residual block with scale and bias of its last norm set to 0."""
    zeros = {name: np.zeros_like(leaf) for name, leaf in block["params"]["norm2"].items()}
    return {**block, "params": {**block["params"], "norm2": zeros}}


def add_blocks(variables: Variables, blocks: Mapping[str, Variables]) -> Variables:
    """Returns the variables of a model together with those of more blocks, without copying them.

    Args:
      variables: variables of the model.
      blocks: 'params' and 'batch_stats' of each block, by name.
    """
    return {
        collection: {**values, **{name: block[collection] for name, block in blocks.items()}}
        for collection, values in variables.items()
    }


def deepen(run: TrainedRun, config: ConfigDict, initial: Variables) -> Variables:
    """Returns the variables of a deeper model that computes the same outputs as a trained one.

    Args:
      run: the trained run.
      config: config of the deeper model.
      initial: variables of the deeper model before training; its residual blocks are used.

    Returns:
      'params' and 'batch_stats' of the deeper model, float32.

    Raises:
      ConfigError: the trained model has no identity blocks, the models differ in more than depth,
        or the second is not deeper.
    """
    check_deeper(run.config.model, config.model)
    names = added_blocks(run.config.model, config.model)
    if config.model.name == "resnet":
        residual_blocks = {
            name: zero_residual_branch({key: values[name] for key, values in initial.items()})
            for name in names
        }
        return add_blocks(run.variables, residual_blocks)
    statistics = activation_statistics(
        run.make_model(),
        run.variables,
        sorted(set(names.values())),
        run.dataset.train.images,
        run.mean_image,
        run.config.eval_batch_size,
    )
    epsilon = config.model.norm_epsilon
    blocks = {name: identity_block(statistics[last], epsilon) for name, last in names.items()}
    return add_blocks(run.variables, blocks)


def initial_variables(config: ConfigDict, dataset: Dataset) -> Variables:
    """Returns the randomly initialized variables of a config's model, as NumPy arrays."""
    config = single_device_config(config)
    config.init_from = None
    return jax.device_get(CompiledSteps(config, dataset).initial_state().variables)


def activation_statistics(
    model: nn.Module,
    variables: Variables,
    blocks: Sequence[str],
    images: UInt8[np.ndarray, "images height width channels"],
    mean_image: Float[Array, "height width channels"],
    batch_size: int,
) -> dict[str, dict[str, np.ndarray]]:
    """Returns mean and variance of each channel of the outputs of blocks, with running statistics.

    The statistics are over all images and positions; the variance is that of a population.

    Args:
      model: a model of `flaxres.models.resnet` with separate blocks (no scan).
      variables: 'params' and 'batch_stats' of the model.
      blocks: names of the blocks.
      images: images in [0, 255].
      mean_image: mean image in [0, 1], subtracted from the images in [0, 1].
      batch_size: number of images in a batch; it affects the result only by rounding.

    Returns:
      'mean' and 'var', float32 (channels,), by name of the block.
    """

    @jax.jit
    def batch_moments(
        variables: Variables,
        batch: UInt8[Array, "batch height width channels"],
        is_valid: Float32[Array, " batch"],
    ) -> dict[str, dict[str, jax.Array]]:
        _, captured = model.apply(
            variables,
            normalize(batch, mean_image),
            train=False,
            capture_intermediates=lambda module, _: module.name in blocks,
            mutable=["intermediates"],
        )
        intermediates: Mapping[str, Any] = captured["intermediates"]
        weights = (is_valid / is_valid.sum())[:, None]
        moments = {}
        for name in blocks:
            (x,) = intermediates[name]["__call__"]
            x = x.astype(jnp.float32)
            mean = jnp.sum(weights * x.mean((1, 2)), 0)
            squares = jnp.square(x - mean).mean((1, 2))
            moments[name] = {"mean": mean, "var": jnp.sum(weights * squares, 0)}
        return moments

    accumulator = MomentAccumulator()
    for rows in evaluation_batches(len(images), batch_size, num_devices=1):
        is_valid = (rows >= 0).astype(np.float32)
        accumulator.add(batch_moments(variables, images[rows], is_valid), int(is_valid.sum()))
    return accumulator.statistics()


def make_logits(
    model: nn.Module, mean_image: Float[Array, "height width channels"], batch_size: int
) -> Callable[..., Float[np.ndarray, "images classes"]]:
    """Returns `logits(variables, images) -> float32 (images, classes)`, with running statistics.

    Args:
      model: the model.
      mean_image: mean image in [0, 1], subtracted from the images in [0, 1].
      batch_size: number of images in a batch. All splits with at least that many images share one
        compiled program.
    """

    @jax.jit
    def batch_logits(
        variables: Variables, batch: UInt8[Array, "batch height width channels"]
    ) -> Float[Array, "batch classes"]:
        return predict_logits(model, variables, normalize(batch, mean_image))

    def logits(
        variables: Variables, images: UInt8[np.ndarray, "images height width channels"]
    ) -> Float[np.ndarray, "images classes"]:
        batches = evaluation_batches(len(images), batch_size, num_devices=1)
        parts = [np.asarray(batch_logits(variables, images[rows])) for rows in batches]
        return np.concatenate(parts)[: len(images)]

    return logits
