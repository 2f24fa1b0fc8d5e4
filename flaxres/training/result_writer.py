"""Results of dispatches: metrics and layer statistics are logged, train states are saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from flaxres.errors import DivergedError
from flaxres.parallel import replicas
from flaxres.parallel.multihost import raise_on_all_processes
from flaxres.run.checkpoint import Checkpoints
from flaxres.run.checkpoint_files import has_descriptor_paths
from flaxres.run.lock import LockedDirectory
from flaxres.run.metric_writers import MetricWriters
from flaxres.run.records import Record
from flaxres.run.snapshot import Snapshot
from flaxres.run.terminal_writer import TerminalWriter
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.input_pipeline import ResidentPipeline
from flaxres.training.metrics import MetricSums, TrainMetrics, sum_on_host
from flaxres.training.step_timer import StepTimer
from flaxres.training.stream_pipeline import StreamPipeline


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """Steps that were launched, and their results, which may not be computed yet.

    Attributes:
      step: number of steps done after the dispatch.
      metrics: training metrics.
      is_logged: True if a record is written after the dispatch.
      evaluations: sums of each split, and with `config.ema_decay` those of the average weights on
        it, by the start of their names in a record; {} if no evaluation is due.
      snapshot: copy of the train state, if a checkpoint is due.
      layers: statistics of each layer, if they are due.
    """

    step: int
    metrics: TrainMetrics
    is_logged: bool
    evaluations: Mapping[str, list[MetricSums]]
    snapshot: Snapshot | None
    layers: Mapping[str, jax.Array] | None


class ResultWriter:
    """Logs and saves the results of dispatches once they are computed.

    Attributes:
      record: last record written; {} if there is none.
    """

    def __init__(
        self,
        config: ConfigDict,
        compiled_steps: CompiledSteps,
        pipeline: ResidentPipeline | StreamPipeline,
        timer: StepTimer,
        writers: MetricWriters,
        checkpoints: Checkpoints,
        terminal: TerminalWriter,
        locked_directories: Sequence[LockedDirectory],
    ):
        """Stores the receivers of the results.

        Args:
          config: config of the run.
          compiled_steps: step functions of the run.
          pipeline: input pipeline, whose measurements are part of a record.
          timer: watches the dispatches, and is restarted after each record.
          writers: receive the records.
          checkpoints: checkpoints of the run.
          terminal: receives progress.
          locked_directories: must stay in their places; checked at every checkpoint.
        """
        self._config = config
        self._compiled_steps = compiled_steps
        self._pipeline = pipeline
        self._timer = timer
        self._writers = writers
        self._checkpoints = checkpoints
        self._terminal = terminal
        self._locked_directories = locked_directories
        self.record: Record = {}

    def write(self, dispatch: Dispatch) -> None:
        """Waits for a dispatch, and logs and saves what is due.

        Raises:
          DivergedError: a logged metric, or the state of the previous save, is not finite.
          UserError: a file could not be written, or a locked directory is no longer in its place.
        """
        if dispatch.is_logged or self._terminal.is_due():
            metrics = jax.device_get(dispatch.metrics)
            averages = metrics.sums.averages("train")
            self._terminal.update(dispatch.step, replicas.mean_record(averages))
        else:
            jax.block_until_ready(dispatch.metrics.learning_rate)
        if dispatch.is_logged:
            self._write_record(dispatch, averages | metrics.of_last_step())
        if dispatch.layers is not None:
            self.write_layers(dispatch.step, dispatch.layers)
        if dispatch.snapshot is not None:
            # The records are synced first, so that a restart leaves no gap in them.
            self._checkpoints.save(
                dispatch.step, dispatch.snapshot, self._prepare_save, self._check_in_place
            )

    def write_layers(self, step: int, layers: Mapping[str, jax.Array]) -> None:
        """Writes the layer statistics after `step` steps."""
        record = self._compiled_steps.layer_statistics.record(step, jax.device_get(layers))
        with raise_on_all_processes():
            self._writers.write_layers(record)

    def _write_record(self, dispatch: Dispatch, train_metrics: Mapping[str, Any]) -> None:
        """Writes the record of a dispatch.

        Args:
          dispatch: the dispatch; its training metrics have been computed.
          train_metrics: averages of its training metrics, and those of its last step.
        """
        record: dict[str, Any] = {"step": dispatch.step, **train_metrics}
        images_per_second = (
            self._timer.steps_per_second(dispatch.step) * self._config.batch_size
            or self.record.get("images_per_second")  # without a step, as in the record before
        )
        if images_per_second:
            record["images_per_second"] = images_per_second
        record |= self._pipeline.record()
        for name, sums in dispatch.evaluations.items():
            record |= sum_on_host(sums).averages(name)
        self._timer.restart(dispatch.step)
        self.record = replicas.mean_record(record)
        with raise_on_all_processes():
            self._checkpoints.check()
            _check_finite(record)
            self._writers.write(
                [self.record, *replicas.split_record(record, self._config.num_replicas)]
            )
        self._terminal.write(self.record)

    def _prepare_save(self) -> None:
        self._writers.sync()
        if not has_descriptor_paths():  # the checkpoint would not follow the renamed workdir
            self._check_in_place()

    def _check_in_place(self) -> None:
        for directory in self._locked_directories:
            directory.check_in_place()


def _check_finite(record: Mapping[str, Any]) -> None:
    """Checks that a record holds no NaN and no infinity.

    Raises:
      DivergedError: a value is not finite.
    """
    for name, value in record.items():
        if not np.all(np.isfinite(value)):
            raise DivergedError(f"{name} is {value} at step {record['step']}")
