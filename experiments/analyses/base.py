"""Shared parts of the analyses: trained models, their evaluation, and result files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Int32, UInt8
from ml_collections import ConfigDict

from flaxres.data import Dataset, Split
from flaxres.data.augment import normalize
from flaxres.data.sampler import evaluation_batches
from flaxres.errors import counted
from flaxres.experiments.results.csv_files import as_csv
from flaxres.experiments.results.tables import Row
from flaxres.files import write_atomically
from flaxres.models import create_model
from flaxres.training.metrics import MetricSums, sum_on_host

Variables = dict[str, Any]  # 'params' and 'batch_stats': nested dicts of arrays


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedRun:
    """A trained model with its data set.

    Attributes:
      name: VARIANT/seed-N for a run of a sweep, the name of its directory for another run, and the
        name of the model or of the file for weights.
      config: config of the run.
      dataset: data set of the run.
      variables: 'params' and 'batch_stats', NumPy arrays.
      step: number of training steps done.
    """

    name: str
    config: ConfigDict
    dataset: Dataset
    variables: Variables
    step: int

    @property
    def variant(self) -> str:
        """Name of the run without its seed: a model name, or the name of a variant in a sweep."""
        return self.name.partition("/")[0]

    @property
    def mean_image(self) -> Float32[Array, "height width channels"]:
        """Mean of the training images, in [0, 1]."""
        return jnp.asarray(self.dataset.mean_image())

    @property
    def columns(self) -> Row:
        """The columns that identify the run in a CSV file."""
        return {"run": self.name, "net": self.variant, "step": self.step}

    def make_model(self, **fields: object) -> nn.Module:
        """Returns the model for one device, with separate blocks instead of a scan over blocks.

        Args:
          **fields: fields of `config.model` that replace those of the run.
        """
        model = self.config.model.copy_and_resolve_references()
        model.update({"scan": False, "remat": False, **fields})
        return create_model(model, self.dataset.num_classes, self.config.dtype)


def short_names(names: Sequence[str]) -> list[str]:
    """Returns the names VARIANT/seed-N, without the seed if all names have the same seed."""
    seeds = {name.partition("/")[2] for name in names}
    return [name.partition("/")[0] for name in names] if len(seeds) == 1 else list(names)


def single_device_config(config: ConfigDict) -> ConfigDict:
    """Returns a copy of the config that runs on one device."""
    config = config.copy_and_resolve_references()
    config.num_devices, config.parallelism = 1, "jit"
    return config


def predict_logits(
    model: nn.Module, variables: Variables, images: Float[Array, "batch height width channels"]
) -> Float[Array, "batch classes"]:
    """Returns the logits of normalized images, with running statistics."""
    # Without mutable collections `apply` returns only the model's output.
    return cast(jax.Array, model.apply(variables, images, train=False))


class Evaluation:
    """Loss and error on one split: `evaluation(variables) -> {'loss': ..., 'error': ...}`.

    The images stay on the device, and the program is compiled once for all variables.
    """

    def __init__(
        self,
        run: TrainedRun,
        split: Split,
        apply: Callable[..., Float[Array, "batch classes"]] | None = None,
        max_images: int = 0,
    ):
        """Copies the split to the device.

        Args:
          run: the run whose model, mean image and batch size are used.
          split: a split of its data set.
          apply: `apply(variables, images, *arguments) -> logits` for normalized images; by default
            the run's model with running statistics.
          max_images: number of images to use, from the start of the split; 0 for all.
        """
        size = min(max_images, len(split)) if max_images else len(split)
        model = run.make_model()
        apply = apply or (lambda variables, images: predict_logits(model, variables, images))
        self._images = jnp.asarray(split.images[:size])
        self._labels = jnp.asarray(split.labels[:size])
        self._batches = evaluation_batches(size, run.config.eval_batch_size, 1)
        mean_image = run.mean_image

        @jax.jit
        def metric_sums(
            variables: Variables,
            images: UInt8[Array, "images height width channels"],
            labels: Int32[Array, " images"],
            rows: Int32[Array, " batch"],
            *arguments: Any,
        ) -> MetricSums:
            logits = apply(variables, normalize(images[rows], mean_image), *arguments)
            batch_labels = labels[rows]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch_labels)
            return MetricSums.from_batch(losses, logits, batch_labels, rows >= 0)

        self._metric_sums = metric_sums

    def __call__(self, variables: Variables, *arguments: Any) -> dict[str, float]:
        """Returns the mean cross-entropy in nats and the top-1 error in percent.

        Args:
          variables: 'params' and 'batch_stats' of the model.
          *arguments: further arguments of `apply`.
        """
        parts = [
            self._metric_sums(variables, self._images, self._labels, rows, *arguments)
            for rows in self._batches
        ]
        return loss_and_error(parts)


def loss_and_error(parts: Sequence[MetricSums]) -> dict[str, float]:
    """Returns the mean cross-entropy in nats and the top-1 error in percent over all batches."""
    averages: dict[str, Any] = sum_on_host(parts).averages("x")
    return {"loss": averages["x_loss"], "error": averages["x_error"]}


def figure_note(runs: Sequence[TrainedRun], description: str) -> str:
    """Returns the note above a figure: its description, the data sets and the number of steps."""
    datasets = sorted({run.dataset.name for run in runs})
    steps = sorted({run.step for run in runs})
    first_step = "" if len(steps) == 1 else f"{steps[0]:,} to "
    unfinished = [run.name for run in runs if run.step < run.config.num_steps]
    text = f"{description}; {', '.join(datasets)}, after {first_step}{counted(steps[-1], 'step')}"
    return text + (f"; unfinished: {', '.join(unfinished)}" if unfinished else "")


def write_rows(rows: Sequence[Row], path: Path) -> Path:
    """Writes rows to a CSV file and returns its path. Floats have six significant digits."""
    cells = [{key: _format_cell(value) for key, value in row.items()} for row in rows]
    write_atomically(path, as_csv(cells))
    return path


def _format_cell(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else value
