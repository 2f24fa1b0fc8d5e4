"""What the batch norms of a net take and give, over a split in a stream of batches.

All norms of the net go by one kind of statistics: those of the batch, as in training, or the
running ones (Ioffe and Szegedy 2015, arXiv 1502.03167, section 3.1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from experiments.analyses.base import TrainedRun
from flaxres.data.augment import normalize
from flaxres.inference.population_statistics import MomentAccumulator, epoch_batches
from flaxres.models.norms import BatchNorm
from flaxres.training.metrics import MetricSums, sum_on_host

STATISTICS = ("batch", "running")
QUANTITIES = ("input", "normalised", "output")  # normalised: before scale and shift
NUM_BINS = 60
REACH = 5  # standard deviations from the mean to the ends of the bins

# Of one norm: 'mean', 'var', 'scale' and 'bias', float32 (channels,).
Norm = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Measured:
    """A net that goes by one kind of statistics, over a split.

    Attributes:
      moments: (mean, variance) of what each norm takes, (channels,), over all images and positions.
      histograms: by norm and quantity, int64 (NUM_BINS + 2,): the first and the last are what lies
        below and above the bins.
      rates: 'loss' in nats and 'error' in percent.
    """

    moments: dict[str, tuple[np.ndarray, np.ndarray]]
    histograms: dict[tuple[str, str], np.ndarray]
    averages: dict[str, float]


def norms_of(run: TrainedRun) -> dict[str, Norm]:
    """Parameters and running statistics of the batch norms, in the order in which they are called.

    Args:
      run: a net with batch norm.
    """
    names = []

    def watch(call, arguments, options, context):
        if _is_norm(context):
            names.append("/".join(context.module.path))
        return call(*arguments, **options)

    images = jax.ShapeDtypeStruct((1, *run.dataset.image_shape), jnp.float32)
    model = run.model()
    with nn.intercept_methods(watch):
        jax.eval_shape(lambda x: model.apply(run.variables, x, train=False), images)
    flat: dict[str, Norm] = {}
    for collection in ("params", "batch_stats"):
        for path, leaf in traverse_util.flatten_dict(run.variables[collection]).items():
            flat.setdefault("/".join(path[:-1]), {})[path[-1]] = np.asarray(leaf)
    return {name: flat[name] for name in names}


def _is_norm(context: nn.module.InterceptorContext) -> bool:
    return context.method_name == "__call__" and isinstance(context.module, BatchNorm)


def bins_of(norm: Norm, quantity: str) -> np.ndarray:
    """Edges of the bins of a norm's histogram, float32 (NUM_BINS + 1,).

    They are known before any image is seen: `REACH` standard deviations around the mean over all
    channels, as running statistics, scales and shifts have them.
    """
    if quantity == "normalised":
        means, variances = np.zeros(1), np.ones(1)
    elif quantity == "input":
        means, variances = norm["mean"], norm["var"]
    else:
        means, variances = norm["bias"], norm["scale"] ** 2
    std = max(np.sqrt(np.mean(variances) + np.var(means)), 1e-6)
    edges = np.mean(means) + np.linspace(-REACH * std, REACH * std, NUM_BINS + 1)
    return edges.astype(np.float32)


def histogram(values: jax.Array, bins: jax.Array) -> jax.Array:
    """How many values lie in each bin, int32 (NUM_BINS + 2,); see `Measured`.

    Args:
      values: of any shape.
      bins: (NUM_BINS + 1,), edges of bins of equal width.
    """
    width = (bins[-1] - bins[0]) / NUM_BINS
    # Limits come before the integers, which have no place for large floats.
    place = jnp.clip(jnp.floor((values - bins[0]) / width), -1, NUM_BINS)
    return jnp.bincount(place.astype(jnp.int32).ravel() + 1, length=NUM_BINS + 2)


def measure(
    run: TrainedRun,
    statistics: str,
    split: str = "test",
    done: Callable[[str, float], None] = lambda what, cost: None,
) -> Measured:
    """What happens in a net that goes by one kind of statistics at all its norms.

    Args:
      run: a net with batch norm.
      statistics: of `STATISTICS`; 'batch' for those of `config.batch_size` images, in a random
        order that is always the same. The last batch may be smaller.
      split: train or test.
      done: told of each batch: the run's name, and the images in it.
    """
    norms, model = norms_of(run), run.model()
    epsilon = run.config.model.norm_epsilon
    chosen = [(name, quantity) for name in drawn(list(norms)) for quantity in QUANTITIES]
    bins = {f"{name} {quantity}": bins_of(norms[name], quantity) for name, quantity in chosen}

    @jax.jit  # of arguments alone, so that nets that differ in their weights share a program
    def see(variables: dict, norms: dict, bins: dict, images: jax.Array, labels: jax.Array) -> dict:
        moments, histograms = {}, {}

        def watch(call, arguments, options, context):
            if not _is_norm(context):
                return call(*arguments, **options)
            name, x = "/".join(context.module.path), arguments[0].astype(jnp.float32)
            own = {"mean": x.mean((0, 1, 2)), "var": x.var((0, 1, 2))}
            taken = own if statistics == "batch" else norms[name]
            z = (x - taken["mean"]) * jax.lax.rsqrt(taken["var"] + epsilon)
            y = z * norms[name]["scale"] + norms[name]["bias"]
            moments[name] = own
            for quantity, values in zip(QUANTITIES, (x, z, y), strict=True):
                if (key := f"{name} {quantity}") in bins:
                    histograms[key] = histogram(values, bins[key])
            y = y.astype(arguments[0].dtype)
            # What follows a norm comes with it; see `flaxres.models.norms.BatchNorm`.
            y = y if (add := options.get("add")) is None else y + add
            return nn.relu(y) if options.get("relu") else y

        with nn.intercept_methods(watch):
            logits = model.apply(variables, normalize(images, run.mean), train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        sums = MetricSums.from_batch(losses, logits, labels, jnp.ones(labels.shape, bool))
        return {"moments": moments, "histograms": histograms, "sums": sums}

    images, labels = getattr(run.dataset, split).images, getattr(run.dataset, split).labels
    pool, sums, counts = MomentAccumulator(), [], dict.fromkeys(bins, 0)
    for rows in epoch_batches(len(labels), run.config.batch_size, seed=0):
        seen = jax.device_get(see(run.variables, norms, bins, images[rows], labels[rows]))
        pool.add(seen["moments"], len(rows))
        sums.append(seen["sums"])
        counts = {key: n + seen["histograms"][key].astype(np.int64) for key, n in counts.items()}
        done(run.name, len(rows))
    averages, pooled = sum_on_host(sums).averages("x"), pool.statistics()
    return Measured(
        {name: (pooled[name]["mean"], pooled[name]["var"]) for name in norms},
        {(name, quantity): counts[f"{name} {quantity}"] for name, quantity in chosen},
        {"loss": averages["x_loss"], "error": averages["x_error"]},
    )


def drawn(names: list[str]) -> list[str]:
    """The first, the middle and the last, or as many as there are."""
    return [names[i] for i in sorted({0, len(names) // 2, len(names) - 1})]
