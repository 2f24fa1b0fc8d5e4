"""What the analyses share: trained nets of a workdir, their errors, and where results go."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments.analyses.progress import progress
from experiments.results.run_names import run_directories as find_directories
from experiments.results.run_names import run_name, select_names
from experiments.results.tables import as_csv
from flaxres.data import Dataset, Split, load_dataset
from flaxres.data.augment import normalize
from flaxres.data.sampler import evaluation_batches
from flaxres.errors import ConfigError, WorkdirError
from flaxres.inference.trained_model import load_trained_model
from flaxres.models import create_model
from flaxres.run.workdir import CONFIG_FILE, read_config, read_run_config
from flaxres.training.metrics import MetricSums, sum_on_host

ANALYSES = "analyses"  # the directory of results, in the workdir


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedRun:
    """A net at its newest checkpoint.

    Attributes:
      name: of the run, NET/seed-N in a sweep, or that of its directory.
      config: of the run.
      workdir: of the run.
      dataset: that of its config.
      variables: 'params' and 'batch_stats', numpy arrays.
      step: steps that it has made.
    """

    name: str
    config: ConfigDict
    workdir: Path
    dataset: Dataset
    variables: dict
    step: int

    @property
    def net(self) -> str:
        """Name of the net, or of the variant that a sweep made of it."""
        return self.name.partition("/")[0]

    @property
    def mean(self) -> jax.Array:
        """Per-pixel mean of the training images; see `Dataset.mean_image`."""
        return jnp.asarray(self.dataset.mean_image())

    def model(self, **fields: object) -> nn.Module:
        """The net, its blocks one by one rather than in loops, on one device.

        Args:
          **fields: of `config.model`, in the place of those of the run.
        """
        model = self.config.model.copy_and_resolve_references()
        model.update({"scan": False, "remat": False, **fields})
        return create_model(model, self.dataset.num_classes, self.config.dtype)


def run_directories(workdir: Path, only: Sequence[str] = ()) -> list[Path]:
    """Directories of the runs in `workdir`, which is one of a run itself, or of a sweep.

    Args:
      workdir: of a run or a sweep.
      only: patterns of names such as 'resnet-*' or '*/seed-0'; empty for all.

    Raises:
      WorkdirError: there is none.
      ConfigError: a pattern matches none.
    """
    if (workdir / CONFIG_FILE).exists():
        return [workdir]
    found = find_directories(workdir)
    if not found:
        raise WorkdirError(
            f"{workdir} holds neither a run nor a sweep of runs in NET/seed-N; train one with "
            f"python -m flaxres.main --config=... --workdir={workdir}"
        )
    chosen = {
        workdir / name
        for name in select_names([str(path.relative_to(workdir)) for path in found], only)
    }
    return sorted(chosen, key=_by_net)


def _by_net(directory: Path) -> tuple:
    """Plain before residual nets, by depth."""
    config = read_config(directory)
    net, seed = directory.parent.name, config["seed"]
    return *(config[f"model.{field}"] for field in ("name", "depth", "shortcut")), net, seed


def load(directory: Path) -> TrainedRun:
    """The net of the newest checkpoint in a run's directory, with its data set.

    Raises:
      UserError: there is no checkpoint, or no data; or the run is one of several replicas.
    """
    net = load_trained_model(directory, log=lambda message: print(message, file=sys.stderr))
    dataset = load_dataset(net.config.dataset)
    return TrainedRun(run_name(directory), net.config, directory, dataset, net.variables, net.step)


def measure_all(
    directories: Sequence[Path],
    cost: Callable[[ConfigDict], float],
    measure: Callable[[TrainedRun, Callable[[str, float], None]], list[dict[str, object]]],
) -> tuple[list[dict[str, object]], list[TrainedRun]]:
    """Measures runs, one after another, under a progress bar.

    Args:
      directories: of the runs.
      cost: of measuring the run of a config, in any unit; asked of all before the first is
        measured, so it raises where one cannot be.
      measure: `measure(run, done) -> rows`, which tells `done` of its parts and their costs.

    Returns:
      The rows of all runs, and the runs.

    Raises:
      UserError: a run that cannot be measured, or without checkpoint.
    """
    total = 0.0
    for directory in directories:
        config = read_run_config(directory)
        try:
            total += cost(config)
        except ConfigError as error:
            raise ConfigError(f"{directory}: {error}") from None
    rows, runs = [], []
    with progress(total) as done:
        for directory in directories:
            runs.append(load(directory))
            rows += measure(runs[-1], done)
    return rows, runs


def short_names(names: Sequence[str]) -> list[str]:
    """The names of runs, NET/seed-N, without the seed where all have the same."""
    seeds = {name.partition("/")[2] for name in names}
    return [name.partition("/")[0] for name in names] if len(seeds) == 1 else list(names)


def on_one_device(config: ConfigDict) -> ConfigDict:
    """The same net, however many devices it was trained on."""
    config = config.copy_and_resolve_references()
    config.num_devices, config.parallelism = 1, "jit"
    return config


class Evaluation:
    """Loss and error on a split: `evaluation(variables) -> {'loss': ..., 'error': ...}`.

    Compiled once; the images stay on the device.
    """

    def __init__(
        self,
        run: TrainedRun,
        split: Split,
        apply: Callable[..., jax.Array] | None = None,
        most: int = 0,
    ):
        """Puts the split on the device.

        Args:
          run: whose net and normalisation.
          split: of its data set.
          apply: `apply(variables, images, *more) -> logits` of normalised images; by default the
            net with running statistics.
          most: images, the first ones of the split; 0 for all.
        """
        size = min(most, len(split)) if most else len(split)
        model = run.model()
        apply = apply or (lambda variables, images: model.apply(variables, images, train=False))
        self._images = jnp.asarray(split.images[:size])
        self._labels = jnp.asarray(split.labels[:size])
        self._rows = evaluation_batches(size, run.config.eval_batch_size, 1)
        mean = run.mean

        @jax.jit
        def sums(variables, images, labels, rows, *more) -> MetricSums:
            logits = apply(variables, normalize(images[rows], mean), *more)
            own = labels[rows]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, own)
            return MetricSums.from_batch(losses, logits, own, rows >= 0)

        self._sums = sums

    def __call__(self, variables: Mapping, *more: object) -> dict[str, float]:
        """Mean cross-entropy in nats and top-1 error in percent; `more` goes to `apply`."""
        parts = [self._sums(variables, self._images, self._labels, r, *more) for r in self._rows]
        averages = sum_on_host(parts).averages("x")
        return {"loss": averages["x_loss"], "error": averages["x_error"]}


def note(runs: Sequence[TrainedRun], what: str) -> str:
    """What stands on top of a figure: `what` it shows, the data set, and the steps made."""
    sets = sorted({run.dataset.name for run in runs})
    steps = sorted({run.step for run in runs})
    after = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    unfinished = [run.name for run in runs if run.step < run.config.num_steps]
    text = f"{what}; {', '.join(sets)}, after {after} iterations"
    return text + (f"; unfinished: {', '.join(unfinished)}" if unfinished else "")


def write_rows(rows: Sequence[dict[str, object]], path: Path) -> Path:
    """Writes a CSV file with a line for each row; returns its path."""
    path.write_text(as_csv([{k: _short(v) for k, v in row.items()} for row in rows]))
    return path


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else value
