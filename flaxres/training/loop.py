"""The loop of a run: dispatches are launched ahead of the records of those before.

The device has work queued while the host fetches and writes what an earlier dispatch measured, so
logs, evaluations and checkpoints do not let it idle.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Mapping

import jax
import numpy as np
from ml_collections import ConfigDict

from flaxres.data import Dataset, StreamedDataset
from flaxres.errors import DivergedError
from flaxres.parallel import replicas
from flaxres.parallel.multihost import max_over_processes, raise_on_all_processes
from flaxres.parallel.sharding import StepFunction
from flaxres.run.checkpoint import Checkpoints, Snapshot
from flaxres.run.metric_writers import MetricWriters, Record, TerminalWriter
from flaxres.run.preemption import StopRequest
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.dispatches import next_dispatch_size, steps_per_dispatch
from flaxres.training.input_pipeline import make_input_pipeline
from flaxres.training.metrics import MetricSums, TrainMetrics, sum_on_host
from flaxres.training.steps import DeviceData, StepInputs
from flaxres.training.train_state import TrainState

# Waking up for every short step takes from its time on a CPU, so a few are launched at once. They
# are also what a signal waits for.
MAX_AHEAD = 4  # dispatches
AHEAD_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """Steps that were launched, and what they leave; the values may still be computed.

    Attributes:
      step: steps done after it.
      metrics: of the training.
      is_logged: whether there is a record of it.
      evaluations: sums of each split; {} where no evaluation is due.
      snapshot: of the state, where it is to be saved.
      layers: statistics of each layer, where they are due.
    """

    step: int
    metrics: TrainMetrics
    is_logged: bool
    evaluations: Mapping[str, list[MetricSums]]
    snapshot: Snapshot | None
    layers: Mapping[str, jax.Array] | None


class TrainLoop:
    """Trains, evaluates, logs and saves.

    Attributes:
      step: steps launched.
      record: the last one written; {} if there is none.
    """

    def __init__(
        self,
        config: ConfigDict,
        compiled_steps: CompiledSteps,
        dataset: Dataset | StreamedDataset,
        writers: MetricWriters,
        checkpoints: Checkpoints,
        terminal: TerminalWriter,
    ):
        """Puts the data set on the devices, or prepares to stream it there.

        `compiled_steps` are those of `config` and `dataset`.
        """
        self._config = config
        self._compiled_steps = compiled_steps
        self._writers = writers
        self._checkpoints = checkpoints
        self._terminal = terminal
        self._pipeline = make_input_pipeline(config, compiled_steps, dataset)
        self._compiled: dict[int, StepFunction] = {}
        self._launched: deque[Dispatch] = deque()
        self._ahead = 1
        self._clock = StepTimer(0)
        self.step = 0
        self.record: Record = {}

    def run(self, state: TrainState, step: int, stop: StopRequest) -> int:
        """Trains on from `state`, which is donated, until the last step or a signal.

        Args:
          state: after `step` steps.
          step: steps done.
          stop: says when to stop; the state is then saved at the step that has been reached.

        Returns:
          The signal that stopped it, or 0; the last checkpoint is on disk.

        Raises:
          UserError: the training diverged, a file could not be written, or an image not be read.
        """
        self.step = step
        try:
            stopping = self._run(state, stop)
            self._checkpoints.wait()
        except DivergedError as error:
            raise self._explained(error) from None
        finally:
            self._pipeline.close()
        if summary := self._pipeline.summary():
            self._terminal.log(summary)
        return stopping or max_over_processes(stop.signum or 0)

    def _run(self, state: TrainState, stop: StopRequest) -> int:
        config = self._config
        most = steps_per_dispatch(config)
        stopping = 0
        if self.step < config.num_steps:
            self._pipeline.start(self.step, most)
        if self.step == 0 and config.log_layers_every:
            self._write_layers(0, self._launch_layers(state, 0))
        while self.step < config.num_steps and not stopping:
            # Up to the next multiple of `most`: logs, evaluations and checkpoints all lie there.
            num_steps = next_dispatch_size(self.step, most, config.num_steps)
            arrays, rows = self._next(num_steps)
            if num_steps not in self._compiled:
                self._finish(keep=0)
                self._compile(state, arrays, num_steps)
            state, metrics = self._compiled[num_steps](state, arrays, rows)
            del arrays  # streamed images, whose memory later steps need
            self.step += num_steps
            stopping = max_over_processes(
                stop.signum or 0
            )  # asked once, as a signal may come at any moment
            self._launched.append(self._follow(state, metrics, bool(stopping)))
            self._keep_pace()
        self._finish(keep=0)
        return stopping

    def _next(self, num_steps: int) -> StepInputs:
        """What the next steps take; where it is waited for, the devices have nothing else to do."""
        if self._launched and not self._pipeline.is_ready():
            jax.block_until_ready(self._launched[-1].metrics)
        return self._pipeline.next(self.step, num_steps)

    def _launch_layers(self, state: TrainState, step: int) -> Mapping[str, jax.Array]:
        """Starts the statistics of the layers in the step that follows `step` steps."""
        arrays, rows = self._pipeline.batch_at(step)
        return self._compiled_steps.launch_layer_statistics(state, arrays, step, rows)

    def _compile(self, state: TrainState, arrays: DeviceData, num_steps: int) -> None:
        """Compiles all that the loop will call, so that nothing is compiled between the steps."""
        self._terminal.update(self.step, note="compiling")
        self._compiled[num_steps] = self._compiled_steps.compile_train_steps(
            state, arrays, num_steps
        )
        self._pipeline.compile_evaluation(state)
        if self._config.log_layers_every and num_steps == 1:
            self._compiled_steps.compile_layer_statistics(state, arrays)
        Snapshot(state)
        self._clock.restart(self.step)
        self._finished = time.perf_counter()
        self._pipeline.record()  # begins anew too
        self._terminal.restart_clock(self.step)

    def _follow(self, state: TrainState, metrics: TrainMetrics, stopping: bool) -> Dispatch:
        """Launches what is to be done with `state` before the next steps take its memory."""
        log, evaluate, save = due(self._config, self.step)
        evaluations = {}
        if evaluate:
            for name in self._pipeline.splits:
                evaluations[name] = self._pipeline.launch_evaluation(state, name)
        layers = None
        if layers_due(self._config, self.step):
            layers = self._launch_layers(state, self.step)
        snapshot = Snapshot(state) if save or stopping else None
        return Dispatch(self.step, metrics, log or evaluate, evaluations, snapshot, layers)

    def _keep_pace(self) -> None:
        """Finishes dispatches when enough are launched, or one has to be written or saved."""
        if self._compiled_steps.devices.synchronous:
            self._finish(keep=0)
            return
        *before, _ = self._launched
        if len(before) < self._ahead and not any(d.is_logged or d.snapshot for d in before):
            return
        self._finish(keep=1)
        now = time.perf_counter()
        # Processes that wait for one another must not go by their own clocks.
        if before and jax.process_count() == 1:
            seconds = (now - self._finished) / len(before)
            self._ahead = max(1, min(MAX_AHEAD, int(AHEAD_SECONDS / seconds)))
        self._finished = now

    def _finish(self, keep: int) -> None:
        """Waits for all dispatches but the newest `keep`, and does what is due after each."""
        while len(self._launched) > keep:
            dispatch = self._launched.popleft()
            if dispatch.is_logged or self._terminal.is_due():
                metrics = jax.device_get(dispatch.metrics)
                averages = metrics.sums.averages("train")
                self._terminal.update(dispatch.step, replicas.mean_record(averages))
            else:
                jax.block_until_ready(dispatch.metrics.learning_rate)
            if dispatch.is_logged:
                self._write(dispatch, averages, metrics.learning_rate)
            if dispatch.layers is not None:
                self._write_layers(dispatch.step, dispatch.layers)
            if dispatch.snapshot is not None:
                # Its record is on disk before, so that no restart leaves a gap.
                self._checkpoints.save(
                    dispatch.step, dispatch.snapshot, before_save=self._writers.sync
                )

    def _write(self, dispatch: Dispatch, averages: dict, learning_rate: np.ndarray) -> None:
        """Writes the record of a dispatch whose training metrics are there."""
        averages = {"step": dispatch.step} | averages
        averages["learning_rate"] = np.asarray(learning_rate, np.float64).tolist()
        speed = self._clock.steps_per_second(dispatch.step)
        averages["images_per_second"] = speed * self._config.batch_size
        averages |= self._pipeline.record()
        for name, sums in dispatch.evaluations.items():
            averages |= sum_on_host(sums).averages(name)
        self._clock.restart(dispatch.step)
        self.record = replicas.mean_record(averages)
        with raise_on_all_processes():
            self._checkpoints.check()
            _check_finite(averages)
            self._writers.write(
                [self.record, *replicas.split_record(averages, self._config.num_replicas)]
            )
        self._terminal.write(self.record)

    def _write_layers(self, step: int, layers: Mapping[str, jax.Array]) -> None:
        """Writes the record of the layers' statistics after `step` steps."""
        record = self._compiled_steps.layer_statistics.record(step, jax.device_get(layers))
        with raise_on_all_processes():
            self._writers.write_layers(record)

    def _explained(self, error: DivergedError) -> DivergedError:
        """The same error with what is kept and what to try."""
        try:
            self._checkpoints.wait()
        except DivergedError as earlier:  # a save that was still looking at an earlier step
            error = earlier
        steps = self._checkpoints.steps()
        kept = f"checkpoint {steps[-1]} is kept" if steps else "there is no checkpoint yet"
        return DivergedError(
            f"training diverged: {error}; {kept} in {self._checkpoints.directory}; "
            f"try a lower learning_rate than {self._config.learning_rate}"
        )


def due(config: ConfigDict, step: int) -> tuple[bool, bool, bool]:
    """Whether to log, to evaluate and to save once `step` steps are done; all three at the end."""
    last = step == config.num_steps
    periods = (config.log_every, config.eval_every, config.checkpoint_every)
    log, evaluate, save = (last or step % period == 0 for period in periods)
    return log, evaluate, save


def layers_due(config: ConfigDict, step: int) -> bool:
    """Whether to log the layers' statistics once `step` steps are done."""
    every = config.log_layers_every
    return every > 0 and (step % every == 0 or step == config.num_steps)


class StepTimer:
    """Speed of training, without the evaluations between the steps."""

    def __init__(self, step: int):
        self.restart(step)

    def restart(self, step: int) -> None:
        """Measures from here, with `step` steps done."""
        self._step, self._time = step, time.perf_counter()

    def steps_per_second(self, step: int) -> float:
        """Since the last restart; the results of `step` must have been waited for."""
        return (step - self._step) / (time.perf_counter() - self._time)


def _check_finite(record: Mapping) -> None:
    """Raises DivergedError for a record that holds a NaN or an infinity."""
    for name, value in record.items():
        if not np.all(np.isfinite(value)):
            raise DivergedError(f"{name} is {value} at step {record['step']}")
