"""Population statistics ("precise" batch norm): batch statistics of the whole training set.

Running statistics average over the last steps of training, so they belong to a few batches and to
weights that have changed since. The released models of He15 (arXiv 1512.03385), section 3.4, use
statistics that were computed after training. Wu and Johnson 2021 (arXiv 2105.07576), section 3,
combine the statistics of many batches under fixed weights, as this module does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Int32
from ml_collections import ConfigDict

from flaxres.config import model_name
from flaxres.data import Dataset
from flaxres.data.augment import normalize
from flaxres.data.sampler import EpochSampler
from flaxres.errors import ConfigError
from flaxres.models import create_model
from flaxres.training.train_state import DROPOUT_STREAM, stream_key

BATCH_STATS = ("running", "population")
NORMS_WITH_STATISTICS = ("batch", "instance-running")  # norms that use statistics in evaluation

# (variables, rows of the batch, index of the batch) -> collection `batch_stats` of this batch.
BatchStatistics = Callable[[dict[str, Any], np.ndarray, int], dict[str, Any]]


def check_has_statistics(config: ConfigDict) -> None:
    """Checks that population statistics can be computed for a run.

    Raises:
      ConfigError: the model's norm has no statistics, or the run has several replicas.
    """
    model = config.model
    if model.norm not in NORMS_WITH_STATISTICS:
        raise ConfigError(
            f"population statistics need model.norm {' or '.join(NORMS_WITH_STATISTICS)}, got "
            f"{model.norm!r} in {model_name(model)}"
        )
    if config.num_replicas > 1:
        raise ConfigError(f"population statistics need num_replicas=1, got {config.num_replicas}")


def epoch_batches(
    num_images: int, batch_size: int, seed: int, epoch: int = 0
) -> list[Int32[np.ndarray, " _"]]:
    """Splits the training set into batches, in the random order of a training epoch.

    The order of the data set itself would not do, because it may be sorted by class.

    Args:
      num_images: number of training images.
      batch_size: number of images in a batch; the last batch may be smaller.
      seed: seed of the order.
      epoch: index of the epoch.

    Returns:
      The rows of each batch. Together they contain every image once.
    """
    rows = EpochSampler(num_images, num_images, seed).indices(epoch)[0]
    return np.split(rows, range(batch_size, num_images, batch_size))


class MomentAccumulator:
    """Combines the statistics of batches of any sizes into those of all their images.

    Batch i has n_i images, and a channel has mean m_i and variance v_i there; N = sum n_i. Then
    mean = sum n_i m_i / N and variance = sum n_i (v_i + m_i^2) / N - mean^2. That difference of
    large numbers loses digits, so squared deviations are combined instead, in float64 (Chan, Golub
    and LeVeque 1983, "Algorithms for Computing the Sample Variance"). Instance-norm statistics are
    means over images and are averaged.

    Attributes:
      count: number of images so far.
    """

    def __init__(self) -> None:
        """Creates an accumulator without images."""
        self.count = 0
        self._combined: dict[tuple[str, ...], np.ndarray] = {}

    def add(self, batch_stats: dict[str, Any], count: int) -> None:
        """Adds the statistics of a batch; blocks until they are computed.

        Args:
          batch_stats: collection `batch_stats` of the batch.
          count: number of images in the batch.
        """
        flat = traverse_util.flatten_dict(jax.device_get(batch_stats))
        added = {path: np.asarray(leaf, np.float64) for path, leaf in flat.items()}
        before = self._combined or {path: np.zeros_like(leaf) for path, leaf in added.items()}
        weight = count / (self.count + count)
        self._combined = {path: old + (added[path] - old) * weight for path, old in before.items()}
        for path in added:
            if path[-1] == "var":
                mean_path = (*path[:-1], "mean")
                between_means = (added[mean_path] - before[mean_path]) ** 2
                self._combined[path] += between_means * weight * (1 - weight)
        self.count += count

    def statistics(self) -> dict[str, Any]:
        """Returns the collection `batch_stats` of all images so far, as float32 NumPy arrays."""
        combined = {path: leaf.astype(np.float32) for path, leaf in self._combined.items()}
        return traverse_util.unflatten_dict(combined)


def make_batch_statistics(config: ConfigDict, dataset: Dataset) -> BatchStatistics:
    """Returns a function that computes the statistics of one batch of training images.

    Images are not augmented. Each norm normalizes with the batch's own statistics, as in training
    on one device. Dropout is active and uses random numbers of (seed, index of the batch). The
    function runs on one device and compiles once for each batch size.

    Args:
      config: config of the run.
      dataset: data set of the run; its training split is used.

    Returns:
      A function (variables, rows, index of the batch) -> collection `batch_stats`.

    Raises:
      ConfigError: the model's norm has no statistics, or the run has several replicas.
    """
    check_has_statistics(config)
    fields = config.model.copy_and_resolve_references()
    # With momentum 0, the running statistics are those of the last batch.
    fields.update({"norm_momentum": 0.0, "remat": False})
    frozen = config.transfer.frozen  # frozen norms keep the statistics that they were trained with
    model = create_model(fields, dataset.num_classes, config.dtype, frozen=frozen)
    images, mean = dataset.train.images, dataset.mean_image()
    key = stream_key(config.seed, DROPOUT_STREAM)

    @jax.jit
    def statistics(
        variables: dict[str, Any], batch: jax.Array, number: jax.Array
    ) -> dict[str, Any]:
        _, updated = model.apply(
            variables,
            normalize(batch, mean),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.fold_in(key, number)},
        )
        return updated["batch_stats"]

    return lambda variables, rows, number: statistics(variables, images[rows], number)


def population_statistics(
    config: ConfigDict, dataset: Dataset, variables: dict[str, Any]
) -> dict[str, Any]:
    """Computes batch statistics of the whole training set, in batches of `config.batch_size`.

    Args:
      config: config of the run.
      dataset: data set of the run; its training split is used.
      variables: collections 'params' and 'batch_stats'; the values of 'batch_stats' are not used.

    Returns:
      The new collection `batch_stats`, as float32 NumPy arrays.

    Raises:
      ConfigError: the model's norm has no statistics, or the run has several replicas.
    """
    batch_statistics = make_batch_statistics(config, dataset)
    accumulator = MomentAccumulator()
    batches = epoch_batches(len(dataset.train), config.batch_size, config.seed)
    for number, rows in enumerate(batches):
        accumulator.add(batch_statistics(variables, rows, number), len(rows))
    return accumulator.statistics()
