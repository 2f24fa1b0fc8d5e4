"""A deeper net made of a trained one and identity layers: it is no worse than what it is made of.

He15 (arXiv 1512.03385), section 1, argues with this construction that deeper nets ought not to have
a higher training error. Blocks are added at the end of each stage; all else is the trained net's.

In a plain net each added layer hands on what it gets. Its kernel is one at its centre, from each
channel to itself; the running statistics of its batch norm are those of the activations there, over
the training images, and its scale and bias undo it. The activations come from a ReLU, so that the
next ones change nothing. Evaluated, such layers are identities but for rounding; in training they
are as far as a batch's statistics are those of all images.

In a residual net the added blocks are initialised as usual, from the run's seed, but for the scale
of the last norm, which is zero: what is left is their identity shortcut, in training too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.analyses.base import TrainedRun, on_one_device
from flaxres.config import model_name
from flaxres.data import Dataset
from flaxres.data.augment import normalize
from flaxres.data.sampler import evaluation_batches
from flaxres.errors import ConfigError
from flaxres.inference.population_statistics import MomentAccumulator
from flaxres.models.resnet import stages_of_depth
from flaxres.training.compiled_steps import CompiledSteps

Variables = Mapping[str, Mapping]  # 'params' and 'batch_stats', nested dicts of arrays
MAY_DIFFER = ("depth", "remat", "scan")  # fields of `config.model`


def check_deeper(shallow: ConfigDict, deeper: ConfigDict) -> None:
    """Checks that one net can be made of another and identity blocks.

    Args:
      shallow: the fields of the net that is there, `config.model`.
      deeper: those of the net to build.

    Raises:
      ConfigError: nets that have no identity blocks, that differ in more than depth, or of which
        the second is not the deeper one.
    """
    name = model_name(shallow)
    has_identities = (
        shallow.name in ("plain", "resnet")
        and shallow.block == "basic"
        and shallow.shortcut in ("none", "A", "B")
        and shallow.norm == "batch"
    )
    if not has_identities:
        raise ConfigError(
            "identity blocks are for plain nets and residual nets with shortcut A or B, of basic "
            f"blocks with batch norm; got {name} with model.norm={shallow.norm!r}"
        )
    for field in shallow:
        if field not in MAY_DIFFER and shallow[field] != deeper[field]:
            raise ConfigError(
                f"the net to build must differ from {name} in depth alone, got model.{field}="
                f"{deeper[field]!r} for {shallow[field]!r}"
            )
    try:
        counts = [stages_of_depth(net.depth, net.block, net.stem) for net in (shallow, deeper)]
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if counts[0] == counts[1] or any(a > b for a, b in zip(*counts, strict=True)):
        raise ConfigError(f"the net to build must be deeper than {name}, got {model_name(deeper)}")


def added_blocks(shallow: ConfigDict, deeper: ConfigDict) -> dict[str, str]:
    """Names of the blocks that the deeper net has besides, with those that the stage ended in.

    Args:
      shallow: the fields of the net that is there.
      deeper: those of the net to build; see `check_deeper`.
    """
    counts = [stages_of_depth(net.depth, net.block, net.stem) for net in (shallow, deeper)]
    return {
        f"stage{stage}_block{block}": f"stage{stage}_block{before}"
        for stage, (before, after) in enumerate(zip(*counts, strict=True), start=1)
        for block in range(before + 1, after + 1)
    }


def identity_layers(statistics: Mapping[str, np.ndarray], epsilon: float) -> dict[str, dict]:
    """Variables of a plain block that hands on activations with these statistics.

    With mean m and variance v the norm is (x - m) / sqrt(v + epsilon) * scale + bias, so scale
    sqrt(v + epsilon) and bias m give x back; also where v is zero.

    Args:
      statistics: 'mean' and 'var' of the activations by channel, float32 (channels,).
      epsilon: of the norm.

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


def zero_branch(block: Mapping[str, Mapping]) -> dict[str, dict]:
    """A residual block's variables with scale and bias of its last norm at zero."""
    last = {name: np.zeros_like(leaf) for name, leaf in block["params"]["norm2"].items()}
    return {**block, "params": {**block["params"], "norm2": last}}


def add_blocks(variables: Variables, blocks: Mapping[str, Mapping[str, Mapping]]) -> dict:
    """The variables of a net with those of more blocks; the net's own stay the very same arrays.

    Args:
      variables: of the net.
      blocks: 'params' and 'batch_stats' of each block, by its name.
    """
    return {
        collection: {**own, **{name: block[collection] for name, block in blocks.items()}}
        for collection, own in variables.items()
    }


def deepen(run: TrainedRun, config: ConfigDict, fresh: Variables) -> dict:
    """The variables of a deeper net that computes what a trained one does.

    Args:
      run: the trained net.
      config: of the deeper one.
      fresh: variables of the deeper one before training, whose residual blocks are taken.

    Returns:
      'params' and 'batch_stats' of the deeper net, float32.

    Raises:
      ConfigError: see `check_deeper`.
    """
    check_deeper(run.config.model, config.model)
    names = added_blocks(run.config.model, config.model)
    if config.model.name == "resnet":
        blocks = {
            name: zero_branch({collection: own[name] for collection, own in fresh.items()})
            for name in names
        }
        return add_blocks(run.variables, blocks)
    statistics = activation_statistics(
        run.model(),
        run.variables,
        sorted(set(names.values())),
        run.dataset.train.images,
        run.mean,
        run.config.eval_batch_size,
    )
    epsilon = config.model.norm_epsilon
    blocks = {name: identity_layers(statistics[end], epsilon) for name, end in names.items()}
    return add_blocks(run.variables, blocks)


def fresh_variables(config: ConfigDict, dataset: Dataset) -> dict:
    """The variables of a config's net before its training from random weights, NumPy arrays."""
    config = on_one_device(config)
    config.init_from = None
    return jax.device_get(CompiledSteps(config, dataset).initial_state().variables)


def activation_statistics(
    model: nn.Module,
    variables: Variables,
    blocks: Sequence[str],
    images: np.ndarray,
    mean: np.ndarray,
    batch_size: int,
) -> dict[str, dict[str, np.ndarray]]:
    """Mean and variance of each channel of what blocks put out, with running statistics.

    Over all images and positions; the variance is that of a population. In a stream of batches.

    Args:
      model: of `flaxres.models.resnet`, that calls its blocks one by one.
      variables: its 'params' and 'batch_stats'.
      blocks: their names.
      images: uint8 (n, height, width, channels).
      mean: float32 (height, width, channels), subtracted from the images in 0..1.
      batch_size: images at a time; the result does not depend on it but for rounding.

    Returns:
      'mean' and 'var', float32 (channels,), by block.
    """

    @jax.jit
    def moments(variables: Variables, batch: jax.Array, is_there: jax.Array) -> dict:
        _, found = model.apply(
            variables,
            normalize(batch, mean),
            train=False,
            capture_intermediates=lambda module, _: module.name in blocks,
            mutable=["intermediates"],
        )
        weights = (is_there / is_there.sum())[:, None]
        own = {}
        for name in blocks:
            (x,) = found["intermediates"][name]["__call__"]
            x = x.astype(jnp.float32)
            average = jnp.sum(weights * x.mean((1, 2)), 0)
            squares = jnp.square(x - average).mean((1, 2))
            own[name] = {"mean": average, "var": jnp.sum(weights * squares, 0)}
        return own

    pool = MomentAccumulator()
    for rows in evaluation_batches(len(images), batch_size, num_devices=1):
        is_there = (rows >= 0).astype(np.float32)
        pool.add(moments(variables, images[rows], is_there), int(is_there.sum()))
    return pool.statistics()


def make_logits(model: nn.Module, mean: np.ndarray, batch_size: int) -> Callable[..., np.ndarray]:
    """Returns `logits(variables, images) -> float32 (n, classes)`, with running statistics.

    Args:
      model: the net.
      mean: float32 (height, width, channels), subtracted from the images in 0..1.
      batch_size: images at a time; one program for all splits of at least as many.
    """

    @jax.jit
    def apply(variables: Variables, batch: jax.Array) -> jax.Array:
        return model.apply(variables, normalize(batch, mean), train=False)

    def logits(variables: Variables, images: np.ndarray) -> np.ndarray:
        batches = evaluation_batches(len(images), batch_size, num_devices=1)
        parts = [np.asarray(apply(variables, images[rows])) for rows in batches]
        return np.concatenate(parts)[: len(images)]

    return logits
