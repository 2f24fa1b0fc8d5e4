"""Inputs and outputs of the batch norms of a model, measured over a split, batch by batch.

All norms of the model use the same kind of statistics: those of the batch, as in training, or the
running statistics (Ioffe and Szegedy 2015, arXiv 1502.03167, section 3.1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jaxtyping import Array, Float, Float32, Int32, UInt8

from flaxres.data.augment import normalize
from flaxres.experiments.analyses.base import TrainedRun, Variables, loss_and_error, predict_logits
from flaxres.experiments.analyses.progress import Advance, no_progress
from flaxres.inference.population_statistics import MomentAccumulator, epoch_batches
from flaxres.models.batch_norm import BatchNorm
from flaxres.models.norms import separate_norms
from flaxres.training.metrics import MetricSums

STATISTICS = ("batch", "running")
# The input, the normalized input before scale and shift, and the output. The names are values in
# batch_norm_histograms.csv, so their spelling stays.
NORMALIZED = "normalised"
QUANTITIES = ("input", NORMALIZED, "output")
NUM_BINS = 60
RANGE_IN_STDS = 5  # standard deviations from the mean to the first and the last bin edge

# 'mean', 'var', 'scale' and 'bias' of one norm, float32 (channels,).
NormVariables = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class NormMeasurements:
    """Measurements of a model with one kind of statistics, over a split.

    Attributes:
      moments: (mean, variance) of the input of each norm over all images and positions, float32
        (channels,), by name of the norm.
      histograms: counts, int64 (NUM_BINS + 2,), by name of the norm and quantity. The first and the
        last count are the values below and above all bins.
      averages: 'loss' in nats and 'error' in percent.
    """

    moments: dict[str, tuple[np.ndarray, np.ndarray]]
    histograms: dict[tuple[str, str], np.ndarray]
    averages: dict[str, float]


def read_norms(run: TrainedRun) -> dict[str, NormVariables]:
    """Returns the parameters and running statistics of the batch norms, in call order.

    Args:
      run: a run whose model has batch norm.
    """
    names: list[str] = []

    def record_name(
        call: Callable[..., Any],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        if _is_norm_call(context):
            names.append("/".join(context.module.path))
        return call(*arguments, **options)

    images = jax.ShapeDtypeStruct((1, *run.dataset.image_shape), jnp.float32)
    model = run.make_model()
    with separate_norms(), nn.intercept_methods(record_name):
        jax.eval_shape(lambda x: model.apply(run.variables, x, train=False), images)
    variables: dict[str, NormVariables] = {}
    for collection in ("params", "batch_stats"):
        for path, leaf in traverse_util.flatten_dict(run.variables[collection]).items():
            variables.setdefault("/".join(path[:-1]), {})[path[-1]] = np.asarray(leaf)
    return {name: variables[name] for name in names}


def _is_norm_call(context: nn.module.InterceptorContext) -> bool:
    return context.method_name == "__call__" and isinstance(context.module, BatchNorm)


def bin_edges(norm: NormVariables, quantity: str) -> Float32[np.ndarray, " edges"]:
    """Returns the bin edges of a norm's histogram, float32 (NUM_BINS + 1,).

    The bins span `RANGE_IN_STDS` standard deviations on both sides of the mean over all channels.
    Mean and standard deviation follow from running statistics, scales and shifts, so the bins do
    not depend on the images.
    """
    if quantity == NORMALIZED:
        means, variances = np.zeros(1), np.ones(1)
    elif quantity == "input":
        means, variances = norm["mean"], norm["var"]
    else:
        means, variances = norm["bias"], norm["scale"] ** 2
    std = max(np.sqrt(np.mean(variances) + np.var(means)), 1e-6)
    edges = np.mean(means) + np.linspace(-RANGE_IN_STDS * std, RANGE_IN_STDS * std, NUM_BINS + 1)
    return edges.astype(np.float32)


def histogram(
    values: Float[Array | np.ndarray, "*shape"], edges: Float[Array | np.ndarray, " edges"]
) -> Int32[Array, " counts"]:
    """Returns the number of values in each bin, int32 (NUM_BINS + 2,).

    Args:
      values: values of any shape.
      edges: edges of NUM_BINS bins of equal width. The first and the last count are the values
        below and above all bins.
    """
    width = (edges[-1] - edges[0]) / NUM_BINS
    # The values are clipped as floats, because large floats do not fit in an integer.
    bins = jnp.clip(jnp.floor((values - edges[0]) / width), -1, NUM_BINS)
    return jnp.bincount(bins.astype(jnp.int32).ravel() + 1, length=NUM_BINS + 2)


def measure_norms(
    run: TrainedRun,
    statistics: str,
    split: str = "test",
    advance: Advance = no_progress,
    max_images: int = 0,
) -> NormMeasurements:
    """Measures the inputs and outputs of all norms of a model with one kind of statistics.

    Args:
      run: a run whose model has batch norm.
      statistics: one of `STATISTICS`. 'batch' means batches of `config.batch_size` images, in a
        fixed random order. The last batch may be smaller.
      split: 'train' or 'test'.
      advance: called after each batch with the run's name and the number of images.
      max_images: number of images to use, from the start of the split; 0 for all.
    """
    norms, model, mean_image = read_norms(run), run.make_model(), run.mean_image
    epsilon = run.config.model.norm_epsilon
    selected = [(name, q) for name in histogram_layers(list(norms)) for q in QUANTITIES]
    edges = {f"{name} {quantity}": bin_edges(norms[name], quantity) for name, quantity in selected}

    # Weights, statistics and bins are arguments, so runs of one model share a compiled program.
    @jax.jit
    def measure_batch(
        variables: Variables,
        norms: dict[str, NormVariables],
        edges: dict[str, Float32[Array, " edges"]],
        images: UInt8[Array, "batch height width channels"],
        labels: Int32[Array, " batch"],
    ) -> dict[str, Any]:
        moments: dict[str, dict[str, jax.Array]] = {}
        histograms: dict[str, jax.Array] = {}

        def measure_norm(
            call: Callable[..., Any],
            arguments: tuple[Any, ...],
            options: dict[str, Any],
            context: nn.module.InterceptorContext,
        ) -> Any:
            if not _is_norm_call(context):
                return call(*arguments, **options)
            name, x = "/".join(context.module.path), arguments[0].astype(jnp.float32)
            batch_moments = {"mean": x.mean((0, 1, 2)), "var": x.var((0, 1, 2))}
            applied = batch_moments if statistics == "batch" else norms[name]
            z = (x - applied["mean"]) * jax.lax.rsqrt(applied["var"] + epsilon)
            y = z * norms[name]["scale"] + norms[name]["bias"]
            moments[name] = batch_moments
            for quantity, values in zip(QUANTITIES, (x, z, y), strict=True):
                if (key := f"{name} {quantity}") in edges:
                    histograms[key] = histogram(values, edges[key])
            y = y.astype(arguments[0].dtype)
            # `BatchNorm` also applies the addition and the ReLU that follow it.
            y = y if (add := options.get("add")) is None else y + add
            return nn.relu(y) if options.get("relu") else y

        with separate_norms(), nn.intercept_methods(measure_norm):
            logits = predict_logits(model, variables, normalize(images, mean_image))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        sums = MetricSums.from_batch(losses, logits, labels, jnp.ones(labels.shape, bool))
        return {"moments": moments, "histograms": histograms, "sums": sums}

    images, labels = getattr(run.dataset, split).images, getattr(run.dataset, split).labels
    accumulator, sums = MomentAccumulator(), []
    counts = {key: np.zeros(NUM_BINS + 2, np.int64) for key in edges}
    size = min(max_images or len(labels), len(labels))
    for rows in epoch_batches(size, run.config.batch_size, seed=0):
        batch = measure_batch(run.variables, norms, edges, images[rows], labels[rows])
        measured = jax.device_get(batch)
        accumulator.add(measured["moments"], len(rows))
        sums.append(measured["sums"])
        for key in counts:
            counts[key] += measured["histograms"][key]
        advance(run.name, len(rows))
    pooled = accumulator.statistics()
    return NormMeasurements(
        {name: (pooled[name]["mean"], pooled[name]["var"]) for name in norms},
        {(name, quantity): counts[f"{name} {quantity}"] for name, quantity in selected},
        loss_and_error(sums),
    )


def histogram_layers(names: list[str]) -> list[str]:
    """Returns the first, the middle and the last name, without duplicates."""
    return [names[i] for i in sorted({0, len(names) // 2, len(names) - 1})]
