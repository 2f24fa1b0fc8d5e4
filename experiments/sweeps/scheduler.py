"""Queue of a sweep: starts runs, watches them and retries failed ones."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import math
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flaxres.errors import (
    CheckpointError,
    ConfigError,
    DamagedFileError,
    DivergedError,
    InterruptedRunError,
    InUseError,
    UserError,
    printable,
)
from flaxres.experiments.executors.base import Executor, ExitStatus, Job
from flaxres.experiments.sweeps.plan import LOG_FILE, Plan
from flaxres.run.preemption import StopRequest
from flaxres.run.records import Record, records_from_end
from flaxres.run.text_files import lines_from_end
from flaxres.run.workdir import METRICS_FILE
from flaxres.training.run_start import Resume, find_run_start
from flaxres.training.run_state import finished_record

POLL_SECONDS = 0.5
RESUBMIT_SECONDS = 30.0  # after a cluster has rejected runs
RETRY_SECONDS = 5.0  # before a failed run is retried: one of its processes may still be saving
FINAL_EXIT_CODES = (ConfigError.exit_code, DivergedError.exit_code)  # a retry would fail again
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


def run_queue(
    runs: Sequence[RunProgress],
    workdir: Path,
    executor: Executor,
    retries: int,
    log: Callable[[str], None],
    update: Callable[[], None],
    deadline: float = math.inf,
) -> None:
    """Executes runs until each has finished or failed, or the deadline has passed.

    Args:
      runs: runs in the order in which they start; updated in place.
      workdir: workdir of the sweep.
      executor: executor of the runs.
      retries: how often a failed run is started again, from its last checkpoint.
      log: receives one-line messages.
      update: called every half second, to show the progress.
      deadline: monotonic time after which all runs save and stop.

    Raises:
      InterruptedRunError: a signal asked to stop; all runs have saved.
      UserError: the executor rejects the runs.
    """
    active: list[RunProgress] = []
    early_errors: dict[str, float] = {}
    not_before = 0.0
    with StopRequest("saving and stopping all runs") as stop:
        try:
            while stop.signum is None and time.monotonic() < deadline:
                now = time.monotonic()
                waiting = [run for run in runs if run.state is RunState.WAITING]
                ready = [run for run in waiting if now >= max(not_before, run.not_before)]
                capacity = len(runs) if executor.capacity is None else executor.capacity
                if starting := ready[: capacity - len(active)]:
                    try:
                        jobs = executor.submit([run.plan.task(workdir) for run in starting])
                    except UserError as error:
                        if not active:
                            raise
                        log(f"{error}; retrying")  # the cluster may be busy; other runs continue
                        not_before = now + RESUBMIT_SECONDS
                    else:
                        for run, job in zip(starting, jobs, strict=True):
                            run.job, run.state = job, RunState.QUEUED
                            run.attempts += 1
                            run.start_step, run.start_time = run.step, now
                        active += starting
                if not active and not waiting:
                    return
                time.sleep(POLL_SECONDS)
                for run in active:
                    _update_run(run, retries, log, early_errors)
                active = [run for run in active if run.job is not None]
                update()
            _stop_all(active, update)
        except KeyboardInterrupt:
            for run in active:
                if run.job is not None:
                    run.job.kill()
            raise
        except BaseException:
            _stop_all(active, update)
            raise
        signum = stop.signum
    unfinished = sum(run.state in (RunState.STOPPED, RunState.WAITING) for run in runs)
    message = (
        f"Stopped with {unfinished} of {len(runs)} runs unfinished. Rerun the same command to "
        "resume."
    )
    if signum is not None:
        raise InterruptedRunError(message, signum)
    if unfinished:  # the time limit
        log(message)


def _update_run(
    run: RunProgress, retries: int, log: Callable[[str], None], early_errors: dict[str, float]
) -> None:
    """Updates the state of an active run: started, finished, failed, or waiting for a retry.

    Args:
      run: the run.
      retries: how often a failed run is started again.
      log: receives one-line messages.
      early_errors: errors of attempts that ended before their first record, in all runs, with the
        time of their first occurrence. Each is logged once. If it is still there in an attempt
        that starts `RETRY_SECONDS` later, it is permanent, such as a missing file.
    """
    if run.job is None:
        return
    exit_status = run.job.poll()
    damage = _refresh(run)
    if exit_status is None:
        if run.state is RunState.QUEUED and run.job.has_started():
            run.state = RunState.RUNNING
            log(f"{run.plan.name}: started" + (f" at step {run.step:,}" if run.step else ""))
        return
    run.job = None
    if run.has_finished(exit_status):
        run.state = RunState.FINISHED
        errors = [
            f"{name} error {value:.2f}%"
            for name, value in (
                *(("training", run.record.get("train_error")), ("test", run.test_error)),
            )
            if value is not None
        ]
        log(", ".join((f"{run.plan.name}: finished", *errors)))
        return
    run.message = (damage if exit_status.code == 0 else "") or failure_reason(run, exit_status)
    # A run that is already in use at its first start belongs to another process. Later, the process
    # that uses it may be what is left of an earlier attempt.
    used_by_others = exit_status.code == InUseError.exit_code and run.attempts == 1
    is_early = exit_status.code == UserError.exit_code and run.step == run.start_step
    is_logged = is_early and run.message in early_errors
    is_permanent = is_logged and run.start_time >= early_errors[run.message] + RETRY_SECONDS
    is_final = exit_status.code in FINAL_EXIT_CODES or used_by_others or is_permanent
    if is_early:
        early_errors.setdefault(run.message, time.monotonic())
    if is_final or run.attempts > retries:
        run.state = RunState.FAILED
        line = f"{run.plan.name}: failed: {run.message}"
    else:
        run.state = RunState.WAITING
        run.not_before = time.monotonic() + RETRY_SECONDS
        line = f"{run.plan.name}: {run.message}; retry {run.attempts} of {retries}"
    if not is_logged:
        log(line)


def _refresh(run: RunProgress) -> str:
    """Refreshes the progress of an active run; returns why its metrics cannot be read, or ''."""
    try:
        run.refresh()
    except DamagedFileError as error:
        return str(error)
    return ""


def failure_reason(run: RunProgress, exit_status: ExitStatus) -> str:
    """Returns one line on why a run failed: from the executor, its exit code, or its log."""
    if exit_status.reason:
        return exit_status.reason
    if exit_status.code == -signal.SIGKILL:
        return "killed by SIGKILL, probably by the kernel's out-of-memory killer"
    if exit_status.code < 0:
        return f"killed by {signal.Signals(-exit_status.code).name}"
    last_line = ""
    with contextlib.suppress(FileNotFoundError, DamagedFileError):
        for _, line in lines_from_end(run.workdir / LOG_FILE):
            if last_line := line.decode(errors="replace").strip():
                break
    return printable(last_line.removeprefix("error: ")) or f"exit code {exit_status.code}"


def _stop_all(active: list[RunProgress], update: Callable[[], None]) -> None:
    """Asks all active runs to stop and waits until they have saved."""
    for run in active:
        if run.job is not None:
            run.job.stop()
    while active:
        time.sleep(POLL_SECONDS)
        for run in active:
            exit_status = run.job.poll() if run.job is not None else None
            _refresh(run)
            if exit_status is not None:
                run.job = None
                finished = run.has_finished(exit_status)
                run.state = RunState.FINISHED if finished else RunState.STOPPED
        active[:] = [run for run in active if run.job is not None]
        update()
