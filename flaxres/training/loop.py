"""Training loop of a run: launches steps, evaluates, logs and saves checkpoints.

The next dispatch is launched before the results of the previous one are fetched, so the devices
have work while the host writes logs and checkpoints.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import jax
from ml_collections import ConfigDict

from flaxres.data import Dataset, StreamedDataset
from flaxres.errors import DivergedError
from flaxres.parallel.multihost import max_over_processes
from flaxres.parallel.sharding import StepFunction
from flaxres.run.checkpoint import Checkpoints
from flaxres.run.lock import LockedDirectory
from flaxres.run.metric_writers import MetricWriters
from flaxres.run.preemption import StopRequest
from flaxres.run.records import Record
from flaxres.run.snapshot import Snapshot
from flaxres.run.terminal_writer import TerminalWriter
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.dispatches import MAX_AHEAD, due, is_layer_log_due, next_dispatch_size
from flaxres.training.input_pipeline import make_input_pipeline
from flaxres.training.metrics import MetricSums, TrainMetrics
from flaxres.training.result_writer import Dispatch, ResultWriter
from flaxres.training.step_timer import StepTimer
from flaxres.training.steps import DeviceData, StepInputs
from flaxres.training.train_state import TrainState

AHEAD_SECONDS = 0.2  # of the dispatches that are launched ahead


class TrainLoop:
    """Trains one run from a train state to its last step.

    Attributes:
      step: number of steps launched.
    """

    def __init__(
        self,
        config: ConfigDict,
        compiled_steps: CompiledSteps,
        dataset: Dataset | StreamedDataset,
        writers: MetricWriters,
        checkpoints: Checkpoints,
        terminal: TerminalWriter,
        locked_directories: Sequence[LockedDirectory] = (),
    ):
        """Puts the data set on the devices, or prepares to stream it.

        Args:
          config: config of the run.
          compiled_steps: step functions of `config` and `dataset`.
          dataset: the data set, loaded or streamed.
          writers: receive the records.
          checkpoints: checkpoints of the run.
          terminal: receives progress and messages.
          locked_directories: must stay in their places; checked at every checkpoint.

        Raises:
          DatasetError: the mean image of a streamed data set cannot be computed.
        """
        self._config = config
        self._compiled_steps = compiled_steps
        self._checkpoints = checkpoints
        self._terminal = terminal
        self._pipeline = make_input_pipeline(config, compiled_steps, dataset)
        self._compiled: dict[int, StepFunction] = {}
        self._pending: deque[Dispatch] = deque()
        self._num_ahead = 1  # dispatches launched ahead
        self._timer = StepTimer(0)
        self._results = ResultWriter(
            config,
            compiled_steps,
            self._pipeline,
            self._timer,
            writers,
            checkpoints,
            terminal,
            locked_directories,
        )
        self.step = 0

    @property
    def record(self) -> Record:
        """Last record written; {} if there is none."""
        return self._results.record

    def run(
        self,
        state: Future[TrainState],
        step: int,
        stop: StopRequest,
        former_record: Record | None = None,
        is_evaluated: bool = True,
    ) -> int:
        """Trains until the last step or a stop request. The last checkpoint is then on disk.

        Args:
          state: train state after `step` steps; it is donated. The first steps are compiled while
            it is computed.
          step: number of steps done.
          stop: stop request. The state is saved at the step reached when it arrives. One that
            arrives before the first step is compiled ends the run without a step.
          former_record: last record before `step`; None if there is none.
          is_evaluated: False if no step is left, but the record of the last one is to be written.

        Returns:
          The number of the signal that stopped the run, or 0.

        Raises:
          UserError: the training diverged, a file could not be written, or an image could not be
            read.
        """
        self.step = step
        self._results.record = former_record or {}
        try:
            if not is_evaluated:
                self._evaluate_last_step(state.result())
            signum = self._run(state, stop)
            self._checkpoints.wait()
        except DivergedError as error:
            raise self._explain_divergence(error) from None
        finally:
            self._pipeline.close()
            self._timer.close()
        if summary := self._pipeline.summary():
            self._terminal.log(summary)
        return signum or max_over_processes(stop.signum or 0)

    def _run(self, initial_state: Future[TrainState], stop: StopRequest) -> int:
        config = self._config
        max_steps = self._compiled_steps.steps_per_dispatch
        state, signum = None, 0
        if not self._compiled_steps.devices.can_lower_shapes:
            state = initial_state.result()
        if self.step < config.num_steps:
            self._pipeline.start(self.step, max_steps)
        if self.step == 0 and config.log_layers_every:
            self._results.write_layers(0, self._launch_layers(initial_state.result(), 0))
        while self.step < config.num_steps and not signum:
            # Logs, evaluations and checkpoints are due at multiples of `max_steps`.
            num_steps = next_dispatch_size(self.step, max_steps, config.num_steps)
            arrays, rows = self._next(num_steps)
            is_first = num_steps not in self._compiled
            if is_first:
                self._finish(keep=0)
                is_start = not self._compiled
                self._compile_steps(state, arrays, num_steps)
                if is_start and (signum := max_over_processes(stop.signum or 0)):
                    break  # the state is that of the newest checkpoint, or the initial one
            if state is None:
                state = initial_state.result()
                self._restart_clocks()  # the first steps waited for the state
            state, metrics = self._compiled[num_steps](state, arrays, rows)
            self.step += num_steps
            # Read once per dispatch, because a signal may arrive at any moment.
            signum = max_over_processes(stop.signum or 0)
            self._pending.append(self._launch_follow_ups(state, metrics, bool(signum)))
            if is_first and not signum:
                self._finish(keep=0)
                self._compile_follow_ups(state, arrays, num_steps)
            del arrays  # frees the memory of streamed images for later steps
            if self._pending:
                self._keep_pace()
        self._finish(keep=0)
        return signum

    def _evaluate_last_step(self, state: TrainState) -> None:
        """Evaluates the state after the last step and writes its record, without a step."""
        self._pipeline.start(self.step, self._compiled_steps.steps_per_dispatch)
        metrics = TrainMetrics.of(state)
        self._pending.append(self._launch_follow_ups(state, metrics, is_stopping=False))
        self._finish(keep=0)

    def _next(self, num_steps: int) -> StepInputs:
        """Returns the inputs of the next steps.

        If they are not ready, the pending steps finish first, so that the time spent waiting for
        images is time in which the devices are idle.
        """
        if self._pending and not self._pipeline.is_ready():
            jax.block_until_ready(self._pending[-1].metrics)
        return self._pipeline.next(self.step, num_steps)

    def _launch_layers(self, state: TrainState, step: int) -> Mapping[str, jax.Array]:
        """Launches the layer statistics of the batch that follows `step` steps."""
        arrays, rows = self._pipeline.batch_at(step)
        return self._compiled_steps.launch_layer_statistics(state, arrays, step, rows)

    def _compile_steps(self, state: TrainState | None, arrays: DeviceData, num_steps: int) -> None:
        """Compiles a dispatch of `num_steps` steps; `state` is None if it is still computed."""
        self._terminal.update(self.step, note="compiling")
        example = self._compiled_steps.state_structs() if state is None else state
        self._compiled[num_steps] = self._compiled_steps.compile_train_steps(
            example, arrays, num_steps
        )
        self._restart_clocks()

    def _compile_follow_ups(self, state: TrainState, arrays: DeviceData, num_steps: int) -> None:
        """Compiles what follows some steps only, so that no later step waits for a compilation.

        It comes after the first dispatch, whose record thus appears earlier.
        """
        self._pipeline.compile_evaluation(state)
        if self._config.log_layers_every and num_steps == 1:
            self._compiled_steps.compile_layer_statistics(state, arrays)
        Snapshot(state)
        self._restart_clocks()

    def _restart_clocks(self) -> None:
        self._timer.restart(self.step)
        self._finished = time.perf_counter()
        self._pipeline.record()  # restarts its measurements
        self._terminal.restart_clock(self.step)

    def _launch_follow_ups(
        self, state: TrainState, metrics: TrainMetrics, is_stopping: bool
    ) -> Dispatch:
        """Launches what needs `state` before the next steps reuse its buffers."""
        log, evaluate, save = due(self._config, self.step)
        if log or evaluate:
            self._timer.watch_steps(self.step, metrics)
        evaluations: dict[str, list[MetricSums]] = {}
        if evaluate:
            for name in self._pipeline.splits:
                evaluations |= self._pipeline.launch_evaluation(state, name)
        layers = None
        if is_layer_log_due(self._config, self.step):
            layers = self._launch_layers(state, self.step)
        if log or evaluate:
            self._timer.watch_pause(self.step, (evaluations, layers))
        snapshot = Snapshot(state) if save or is_stopping else None
        return Dispatch(self.step, metrics, log or evaluate, evaluations, snapshot, layers)

    def _keep_pace(self) -> None:
        """Finishes dispatches if enough are pending, or if one must be logged or saved."""
        if self._compiled_steps.devices.synchronous:
            self._finish(keep=0)
            return
        *earlier, _ = self._pending
        if len(earlier) < self._num_ahead and not any(d.is_logged or d.snapshot for d in earlier):
            return
        self._finish(keep=1)
        now = time.perf_counter()
        # Several processes must launch the same number ahead, so they do not measure it.
        if earlier and jax.process_count() == 1:
            seconds_per_dispatch = (now - self._finished) / len(earlier)
            self._num_ahead = max(1, min(MAX_AHEAD, int(AHEAD_SECONDS / seconds_per_dispatch)))
        self._finished = now

    def _finish(self, keep: int) -> None:
        """Waits for all dispatches except the newest `keep`, and logs and saves what is due."""
        while len(self._pending) > keep:
            self._results.write(self._pending.popleft())

    def _explain_divergence(self, error: DivergedError) -> DivergedError:
        """Adds to an error which checkpoint is kept and what to try."""
        try:
            self._checkpoints.wait()
        except DivergedError as earlier_error:  # of a save that was still checking an earlier step
            error = earlier_error
        steps = self._checkpoints.steps()
        kept = f"Checkpoint {steps[-1]} is kept" if steps else "There is no checkpoint yet"
        return DivergedError(
            f"{DivergedError.PREFIX}: {error}. {kept} in {self._checkpoints.directory}. "
            f"Try a learning_rate below {self._config.learning_rate}."
        )
