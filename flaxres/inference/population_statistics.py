"""Population statistics of batch norm: those of the training images, for weights that stand still.

Running statistics are averages over the last steps of training, so they are of weights that have
changed since, and of few batches. The released models of He15 (arXiv 1512.03385), section 3.4,
evaluate by statistics that were computed after training; Wu and Johnson 2021 (arXiv 2105.07576),
section 3, pool the statistics of many batches: "precise" batch norm.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from flaxres.config import model_name
from flaxres.data import Dataset
from flaxres.data.augment import normalize
from flaxres.data.sampler import EpochSampler
from flaxres.errors import ConfigError
from flaxres.models import create_model
from flaxres.training.train_state import DROPOUT_STREAM, stream_key

BATCH_STATS = ("running", "population")  # what an evaluation may normalise by
WITH_STATISTICS = ("batch", "instance-running")  # the norms that evaluate by statistics

# (variables, rows, number of the batch) -> the collection `batch_stats`, of these images alone.
BatchStatistics = Callable[[dict, np.ndarray, int], dict]


def check_has_statistics(config: ConfigDict) -> None:
    """Checks that the net has statistics, and is one.

    Raises:
      ConfigError: a norm without statistics, or several replicas.
    """
    model = config.model
    if model.norm not in WITH_STATISTICS:
        raise ConfigError(
            f"population statistics are for model.norm {' or '.join(WITH_STATISTICS)}, got "
            f"{model.norm!r} in {model_name(model)}"
        )
    if config.num_replicas > 1:
        raise ConfigError(
            f"population statistics are for num_replicas=1, got {config.num_replicas}"
        )


def epoch_batches(num_images: int, batch_size: int, seed: int, epoch: int = 0) -> list[np.ndarray]:
    """Every image once, in the random order of an epoch of training (`EpochSampler`).

    Not in that of the data set, which may be sorted by class.

    Returns:
      int32 rows of the batches, of `batch_size` each; the last one may be smaller.
    """
    rows = EpochSampler(num_images, num_images, seed).indices(epoch)[0]
    return np.split(rows, range(batch_size, num_images, batch_size))


class MomentAccumulator:
    """Statistics of all images from those of batches of any sizes.

    With n_i images in batch i, N in all, and means m_i and variances v_i of a channel:
    mean = sum n_i m_i / N and variance = sum n_i (v_i + m_i^2) / N - mean^2. As that difference is
    of large numbers, squared deviations are joined instead, in float64: Chan, Golub and LeVeque
    1983, "Algorithms for Computing the Sample Variance". Statistics of instance norm are means over
    images, and stay so.

    Attributes:
      count: images so far.
    """

    def __init__(self):
        self.count = 0
        self._pooled: dict[tuple[str, ...], np.ndarray] = {}

    def add(self, batch_stats: dict, count: int) -> None:
        """Takes the statistics of another batch, of `count` images; waits for them."""
        own = traverse_util.flatten_dict(jax.device_get(batch_stats))
        own = {path: np.asarray(leaf, np.float64) for path, leaf in own.items()}
        pooled = self._pooled or {path: np.zeros_like(leaf) for path, leaf in own.items()}
        weight = count / (self.count + count)
        self._pooled = {path: old + (own[path] - old) * weight for path, old in pooled.items()}
        for path in own:
            if path[-1] == "var":
                mean = (*path[:-1], "mean")
                between = (own[mean] - pooled[mean]) ** 2
                self._pooled[path] += between * weight * (1 - weight)
        self.count += count

    def statistics(self) -> dict:
        """The collection `batch_stats`, float32 arrays of NumPy, of all images so far."""
        pooled = {path: leaf.astype(np.float32) for path, leaf in self._pooled.items()}
        return traverse_util.unflatten_dict(pooled)


def make_batch_statistics(config: ConfigDict, dataset: Dataset) -> BatchStatistics:
    """Returns `batch_statistics(variables, rows, number) -> batch_stats` of training images.

    The images are not augmented. Each norm normalises by its batch's own statistics, as in training
    on one device, and these are returned; dropout drops, by random numbers of (seed, number). It
    runs on one device and compiles once for each size of batch.

    Raises:
      ConfigError: see `check_has_statistics`.
    """
    check_has_statistics(config)
    fields = config.model.copy_and_resolve_references()
    # Without a weight for the old ones, the running statistics are those of the last batch.
    fields.update({"norm_momentum": 0.0, "remat": False})
    frozen = config.transfer.frozen  # these keep what they have, which they were trained with
    model = create_model(fields, dataset.num_classes, config.dtype, frozen=frozen)
    images, mean = dataset.train.images, dataset.mean_image()
    key = stream_key(config.seed, DROPOUT_STREAM)

    @jax.jit
    def statistics(variables: dict, batch: jax.Array, number: jax.Array) -> dict:
        _, updated = model.apply(
            variables,
            normalize(batch, mean),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.fold_in(key, number)},
        )
        return updated["batch_stats"]

    return lambda variables, rows, number: statistics(variables, images[rows], number)


def population_statistics(config: ConfigDict, dataset: Dataset, variables: dict) -> dict:
    """Statistics of all training images, in batches of `config.batch_size`.

    Args:
      config: of the run.
      dataset: of the run; its training split is used.
      variables: 'params' and 'batch_stats'; the values of the latter do not matter.

    Returns:
      What takes the place of `batch_stats`, float32 arrays of NumPy.

    Raises:
      ConfigError: see `check_has_statistics`.
    """
    batch_statistics = make_batch_statistics(config, dataset)
    pool = MomentAccumulator()
    batches = epoch_batches(len(dataset.train), config.batch_size, config.seed)
    for number, rows in enumerate(batches):
        pool.add(batch_statistics(variables, rows, number), len(rows))
    return pool.statistics()
