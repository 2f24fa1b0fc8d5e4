"""Models that an analysis reads: runs of a workdir, and weights files.

Every analysis accepts a list of `ModelSource`s, which have a name and a config, and load the model
with its data set on demand. `experiments.analyses.source_selection` finds them.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from ml_collections import ConfigDict

from flaxres import cpu
from flaxres.config import flatten, model_name
from flaxres.data import load_dataset, open_sources
from flaxres.errors import (
    CheckpointError,
    ConfigError,
    DamagedFileError,
    DatasetError,
    UserError,
    print_note,
)
from flaxres.experiments.analyses.base import TrainedRun
from flaxres.experiments.analyses.progress import Advance, log_done, progress_bar
from flaxres.experiments.results.run_names import run_name
from flaxres.experiments.results.runs import Run, read_run
from flaxres.experiments.results.tables import Row
from flaxres.inference.trained_model import TrainedModel, load_trained_model
from flaxres.parallel.multihost import print_to_stderr
from flaxres.run.data_record import report_changed_data
from flaxres.run.records import MetricColumns
from flaxres.run.workdir import read_run_config

Source = TypeVar("Source", bound="ModelSource")
Value = TypeVar("Value")

MAX_MEAN_DIFFERENCE = 1e-6  # between mean images of the same data, in [0, 1]; a rounding error


class ModelSource(abc.ABC):
    """A trained model that an analysis reads. Its text names it in messages."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Name of the model in tables: VARIANT/seed-N, or a name without a seed."""

    @property
    @abc.abstractmethod
    def variant(self) -> str:
        """Name of the model in figures, without its seed."""

    @property
    @abc.abstractmethod
    def config(self) -> ConfigDict:
        """Config of the run that trained the model; raises UserError if it cannot be read."""

    @property
    def directory(self) -> Path | None:
        """Directory of the run; None for a model without one."""
        return None

    @abc.abstractmethod
    def load(self) -> TrainedRun:
        """Loads the model and its data set; raises UserError if one of them cannot be read."""

    @abc.abstractmethod
    def read_metrics(self) -> Run | None:
        """Returns the metrics that training logged; None if there are none."""


@dataclasses.dataclass(frozen=True)
class RunSource(ModelSource):
    """The newest checkpoint of a run.

    Attributes:
      run_directory: directory of the run.
    """

    run_directory: Path

    def __str__(self) -> str:
        return str(self.run_directory)

    @property
    def name(self) -> str:
        """VARIANT/seed-N for a run of a sweep, otherwise the name of its directory."""
        return run_name(self.run_directory)

    @property
    def variant(self) -> str:
        """Name of the variant in a sweep, otherwise the name of the model."""
        name, slash, _ = self.name.partition("/")
        return name if slash else model_name(self.config.model)

    @functools.cached_property
    def config(self) -> ConfigDict:
        """Config of the run."""
        return read_run_config(self.run_directory)

    @property
    def directory(self) -> Path | None:
        """Directory of the run."""
        return self.run_directory

    def load(self) -> TrainedRun:
        """Loads the newest checkpoint and the data set (`load_run`)."""
        return load_run(self.run_directory)

    def read_metrics(self) -> Run | None:
        """Returns the metrics of the run; None if it has not logged any."""
        return read_run(self.run_directory)


@dataclasses.dataclass(frozen=True, eq=False)
class WeightsSource(ModelSource):
    """A weights file, or pretrained weights of flaxres.

    Attributes:
      label: name of the model, or of the file if several models have that name.
      trained: the model.
    """

    label: str
    trained: TrainedModel

    def __str__(self) -> str:
        return str(self.trained.source)

    @property
    def name(self) -> str:
        """Name of the model or of the file."""
        return self.label

    @property
    def variant(self) -> str:
        """Name of the model or of the file."""
        return self.label

    @property
    def config(self) -> ConfigDict:
        """Config in the file, with the data directory of --data_dir."""
        return self.trained.config

    def load(self) -> TrainedRun:
        """Opens the data set that the model was trained on.

        Raises:
          DatasetError: the data set cannot be read.
          DataChangedError: it has other classes.
          ConfigError: its images have another shape.
        """
        input_spec = self.trained.input_spec
        try:
            run = _with_dataset(self.name, self.trained)
        except DatasetError as error:
            raise DatasetError(
                f"the data set of {self} cannot be read (--data_dir is the directory where it is "
                f"prepared): {error}"
            ) from error
        dataset = run.dataset
        if dataset.image_shape != input_spec.image_shape:
            raise ConfigError(
                f"{self} was trained on images of shape {input_spec.image_shape}, but those of "
                f"data set {dataset.name!r} have shape {dataset.image_shape}"
            )
        difference = float(np.abs(dataset.mean_image() - input_spec.mean).max())
        if difference > MAX_MEAN_DIFFERENCE:
            print_note(
                f"{self} was trained on other images than those of data set {dataset.name!r}: "
                f"their mean images differ by up to {difference:.1e} (pixels are in 0..1)"
            )
        return run

    def read_metrics(self) -> Run | None:
        """Returns the errors in the file as the only record, at the model's step."""
        values = {name: np.array([value]) for name, value in self.trained.errors.items()}
        metrics = MetricColumns(np.array([self.trained.step]), values)
        return Run(self.variant, flatten(self.config), {}, metrics)


def load_run(directory: Path) -> TrainedRun:
    """Loads the newest checkpoint and the data set of a run.

    Raises:
      UserError: the run has no checkpoint or several replicas, or its data set cannot be read or
        has other classes.
    """
    return _with_dataset(run_name(directory), load_trained_model(directory, log=print_to_stderr))


def _with_dataset(name: str, trained: TrainedModel) -> TrainedRun:
    """Loads the data set of a model.

    Raises:
      DatasetError: the data set cannot be read.
      DataChangedError: it has other classes than the model.
    """
    cpu.report_missing_settings(print_to_stderr)
    sources = open_sources(trained.config.dataset)
    report_changed_data(trained.source, trained.input_spec.class_names, sources, print_to_stderr)
    dataset = load_dataset(trained.config.dataset, sources)
    return TrainedRun(name, trained.config, dataset, trained.variables, trained.step)


def each_readable(
    sources: Iterable[Source], read: Callable[[Source], Value]
) -> Iterator[tuple[Source, Value]]:
    """Yields each model with what `read` returns for it.

    Runs that cannot be read are left out, and a note on standard error names them.

    Args:
      sources: the models.
      read: reads one of them; raises DamagedFileError or CheckpointError if a run cannot be read.

    Raises:
      UserError: no model can be read.
    """
    errors: list[UserError] = []
    num_read = 0
    for source in sources:
        try:
            value = read(source)
        except (DamagedFileError, CheckpointError) as error:
            errors.append(error)
        else:
            num_read += 1
            yield source, value
    if errors and not num_read:
        raise errors[0]
    for reason in errors:
        print_note(f"a run is left out: {reason}")


def each_measured(
    sources: Sequence[Source], read: Callable[[Source], Value]
) -> Iterator[tuple[Source, Value]]:
    """Yields what `each_readable` yields, and logs each model and its time when it is measured."""
    start = time.monotonic()
    for number, (source, value) in enumerate(each_readable(sources, read), start=1):
        yield source, value
        log_done(f"{source.name} ({number} of {len(sources)})", time.monotonic() - start)
        start = time.monotonic()


def measure_runs(
    sources: Sequence[ModelSource],
    cost: Callable[[ConfigDict], float],
    measure: Callable[[TrainedRun, Advance], list[Row]],
) -> tuple[list[Row], list[TrainedRun]]:
    """Measures models one after another and shows the progress.

    Args:
      sources: the models.
      cost: returns the cost of measuring a model from its config, in any unit. It is called for all
        models before the first one is measured, so it should raise for one that is not supported.
      measure: `measure(run, advance) -> rows`; it calls `advance` after each part of the work.

    Returns:
      The rows of all models, and the models.

    Raises:
      UserError: a model is not supported, or none can be loaded. Otherwise, runs that cannot be
        loaded are left out, and a note names them.
    """
    total_cost = 0.0
    for source in sources:
        try:
            total_cost += cost(source.config)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
    rows: list[Row] = []
    runs: list[TrainedRun] = []
    with progress_bar(total_cost) as advance:
        for _, run in each_measured(sources, lambda source: source.load()):
            runs.append(run)
            rows += measure(run, advance)
    return rows, runs
