"""Progress of the runs of a sweep: state in the queue, steps, errors and cost."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from pathlib import Path

from flaxres.errors import CheckpointError, DamagedFileError
from flaxres.experiments.executors.base import ExitStatus, Job
from flaxres.experiments.sweeps.plan import Plan
from flaxres.run.records import Record, records_from_end
from flaxres.run.workdir import METRICS_FILE
from flaxres.training.run_start import Resume, find_run_start
from flaxres.training.run_state import finished_record

FORWARD_PASSES_PER_STEP = 3.0  # cost of a training step: one forward and one backward pass


class RunState(enum.Enum):
    """State of a run in the queue."""

    WAITING = "waiting"
    QUEUED = "queued"  # submitted to the executor
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclasses.dataclass
class RunProgress:
    """Progress of a run of the sweep.

    Attributes:
      plan: the run.
      workdir: directory of the run.
      cost: multiply-adds of the run; runs with higher cost start first.
      state: state in the queue.
      attempts: number of starts by this sweep.
      start_step: last step with metrics at the newest start.
      start_time: monotonic time of the newest start.
      record: newest record of metrics; {} before the first one.
      test_error: newest test error, in percent; None before the first evaluation.
      message: reason of the last failure.
      job: submitted job; None while the run is neither queued nor running.
      not_before: monotonic time before which the run is not started again.
    """

    plan: Plan
    workdir: Path
    cost: float
    state: RunState = RunState.WAITING
    attempts: int = 0
    start_step: int = 0
    start_time: float = 0.0
    record: Record = dataclasses.field(default_factory=dict)
    test_error: float | None = None
    message: str = ""
    job: Job | None = None
    not_before: float = 0.0
    _metrics_size: int = -1  # size of the metrics file at the last read

    @property
    def step(self) -> int:
        """Last step with metrics."""
        return int(self.record.get("step", 0))

    def refresh(self) -> None:
        """Reads the new end of the metrics file, if it has changed.

        Raises:
          DamagedFileError: the file cannot be read; the progress stays as it is.
        """
        try:
            size = (self.workdir / METRICS_FILE).stat().st_size
        except OSError:
            return
        if size == self._metrics_size:
            return
        newest: Record = {}
        known_step = -1.0
        for _, record in records_from_end(self.workdir):
            if not newest:
                newest = record
                known_step = self.step if record["step"] > self.step else -1
            if "test_error" in record:
                self.test_error = record["test_error"]
            if "test_error" in record or record["step"] <= known_step:
                break
        self._metrics_size, self.record = size, newest or self.record

    def has_finished(self, exit_status: ExitStatus) -> bool:
        """Returns True if the run ended without an error, after its last step."""
        return exit_status.code == 0 and self.step == self.plan.config.num_steps

    def fraction(self) -> float:
        """Returns the fraction of steps that have metrics, from 0 to 1."""
        return min(1.0, self.step / self.plan.config.num_steps)


def read_progress(
    plans: Sequence[Plan],
    workdir: Path,
    in_order: bool = False,
    resume: Resume = "auto",
    allow_schedule_change: bool = False,
) -> list[RunProgress]:
    """Reads the progress of the runs of a sweep from disk.

    Args:
      plans: the runs.
      workdir: workdir of the sweep.
      in_order: if True, runs stay in the order of `plans`; otherwise the most costly comes first.
      resume: what each directory must hold, as in `flaxres.training.run_start`.
      allow_schedule_change: if True, the learning rate of steps that are done may differ.

    Returns:
      The runs. One whose files cannot be read has failed, which hides none of the others.

    Raises:
      WorkdirError: the directory of a run holds another run, or is refused by `resume`.
    """
    runs = []
    for plan in plans:
        run = RunProgress(plan, workdir / plan.name, cost=training_macs(plan))
        try:
            start = find_run_start(run.workdir, plan.config, resume, allow_schedule_change)
            if start.has_run:
                run.refresh()
                # A run with another config is started, also to store the new one.
                is_complete = run.fraction() == 1 and start.change is None
                if is_complete and finished_record(plan.config, run.workdir):
                    run.state = RunState.FINISHED
        except (DamagedFileError, CheckpointError) as error:
            run.state, run.message = RunState.FAILED, str(error)
        runs.append(run)
    return runs if in_order else sorted(runs, key=lambda run: -run.cost)


def training_macs(plan: Plan) -> float:
    """Returns the multiply-adds of all training steps, forward and backward."""
    return FORWARD_PASSES_PER_STEP * macs_per_step(plan) * plan.config.num_steps


def macs_per_step(plan: Plan) -> float:
    """Returns the multiply-adds of the forward passes of one step, for all images and replicas."""
    _, macs = plan.count_params_and_macs()
    return float(macs * plan.config.batch_size * plan.config.num_replicas)
