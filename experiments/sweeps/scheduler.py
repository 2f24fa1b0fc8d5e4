"""The queue of a sweep: starts runs, watches them, tries failed ones again."""

from __future__ import annotations

import dataclasses
import enum
import math
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.executors.base import End, Executor, Job
from experiments.sweeps.plan import LOG_FILE, Plan
from flaxres.errors import ConfigError, DivergedError, InterruptedRunError, InUseError, UserError
from flaxres.run.metric_writers import Record, read_metrics
from flaxres.run.preemption import StopRequest
from flaxres.run.workdir import METRICS_FILE, check_same_config
from flaxres.training.train import finished_record

POLL_SECONDS = 0.5
RESUBMIT_SECONDS = 30.0  # after a cluster has refused
RETRY_SECONDS = 5.0  # before a failed run is started again: what is left of it may be saving
# What trying again would not change.
FINAL_EXIT_CODES = (ConfigError.exit_code, DivergedError.exit_code)


class RunState(enum.Enum):
    """Where a run is."""

    WAITING = "waiting"
    QUEUED = "queued"  # of a cluster
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclasses.dataclass
class RunProgress:
    """A run of the sweep as it stands.

    Attributes:
      plan: the run.
      workdir: its directory.
      cost: how much work it is; runs are started from the largest on.
      state: where it is.
      attempts: how often it was started by this sweep.
      record: the newest of its metrics; {} before the first.
      test_error: the newest one, in percent.
      message: why it failed.
    """

    plan: Plan
    workdir: Path
    cost: float
    state: RunState = RunState.WAITING
    attempts: int = 0
    record: Record = dataclasses.field(default_factory=dict)
    test_error: float | None = None
    message: str = ""
    job: Job | None = None
    not_before: float = 0.0  # of the monotonic clock
    _size: int = -1

    @property
    def step(self) -> int:
        """Steps of which there are metrics."""
        return int(self.record.get("step", 0))

    def read(self) -> None:
        """Looks for new metrics."""
        try:
            size = (self.workdir / METRICS_FILE).stat().st_size
        except OSError:
            return
        if size != self._size and (records := read_metrics(self.workdir)):
            self._size, self.record = size, records[-1]
            tested = [r["test_error"] for r in records if "test_error" in r]
            self.test_error = tested[-1] if tested else None

    def is_done(self, end: End) -> bool:
        """Whether it ended because it has made all its steps."""
        return end.code == 0 and self.step == self.plan.config.num_steps

    def fraction(self) -> float:
        """Of its steps, those done."""
        return min(1.0, self.step / self.plan.config.num_steps)


def read_progress(
    plans: Sequence[Plan], workdir: Path, in_order: bool = False
) -> list[RunProgress]:
    """The runs of a sweep as they stand on disk.

    Args:
      plans: the runs.
      workdir: of the sweep.
      in_order: as they are in `plans`, not the longest first.

    Raises:
      WorkdirError: a directory holds another run.
    """
    runs = []
    for plan in plans:
        run = RunProgress(plan, workdir / plan.name, cost=cost(plan))
        if check_same_config(run.workdir, plan.config):
            run.read()
            if run.fraction() == 1 and finished_record(plan.config, run.workdir):
                run.state = RunState.FINISHED
        runs.append(run)
    return runs if in_order else sorted(runs, key=lambda run: -run.cost)


def cost(plan: Plan) -> float:
    """Multiply-adds of all steps: three times the forward pass of each image."""
    return 3.0 * macs_per_step(plan) * plan.config.num_steps


def macs_per_step(plan: Plan) -> float:
    """Multiply-adds of the forward passes of a step, of all its images and replicas."""
    return float(plan.count()[1] * plan.config.batch_size * plan.config.num_replicas)


def run_queue(
    runs: Sequence[RunProgress],
    workdir: Path,
    executor: Executor,
    retries: int,
    show: Callable[[str], None],
    update: Callable[[], None],
    deadline: float = math.inf,
) -> None:
    """Works on all runs until each has finished or failed, or the time is over.

    Args:
      runs: of `read_progress`, started in this order; their states tell what became of them.
      workdir: of the sweep.
      executor: where they run.
      retries: how often a failed run is started again, from its checkpoint.
      show: told in one line what happens.
      update: called every half second, to show the progress.
      deadline: of the monotonic clock; then all runs save and stop.

    Raises:
      InterruptedRunError: a signal asked to stop; all runs have saved.
      UserError: the executor cannot take runs.
    """
    active: list[RunProgress] = []
    not_before = 0.0
    with StopRequest("all runs save and stop") as stop:
        try:
            while stop.signum is None and time.monotonic() < deadline:
                now = time.monotonic()
                waiting = [run for run in runs if run.state is RunState.WAITING]
                ready = [run for run in waiting if now >= max(not_before, run.not_before)]
                room = len(runs) if executor.capacity is None else executor.capacity
                if started := ready[: room - len(active)]:
                    try:
                        jobs = executor.submit([run.plan.task(workdir) for run in started])
                    except UserError as error:
                        if not active:
                            raise
                        show(f"{error}; trying again")  # a busy cluster; those at work go on
                        not_before = now + RESUBMIT_SECONDS
                    else:
                        for run, job in zip(started, jobs, strict=True):
                            run.job, run.state = job, RunState.QUEUED
                            run.attempts += 1
                        active += started
                if not active and not waiting:
                    return
                time.sleep(POLL_SECONDS)
                for run in active:
                    _watch(run, retries, show)
                active = [run for run in active if run.job is not None]
                update()
            _stop(active, update)
        except KeyboardInterrupt:
            for run in active:
                run.job.kill()
            raise
        except BaseException:
            _stop(active, update)
            raise
        signum = stop.signum
    if signum is None:
        return
    left = sum(run.state in (RunState.STOPPED, RunState.WAITING) for run in runs)
    raise InterruptedRunError(
        f"stopped; the same command goes on with {left} of {len(runs)} runs", signum
    )


def _watch(run: RunProgress, retries: int, show: Callable[[str], None]) -> None:
    """Brings a run's state up to date."""
    end = run.job.poll()
    run.read()
    if end is None:
        if run.state is RunState.QUEUED and run.job.started():
            run.state = RunState.RUNNING
            show(f"{run.plan.name}: started" + (f" at step {run.step:,}" if run.step else ""))
        return
    run.job = None
    if run.is_done(end):
        run.state = RunState.FINISHED
        errors = f"training error {run.record['train_error']:.2f}%, test error"
        show(f"{run.plan.name}: finished, {errors} {run.test_error:.2f}%")
        return
    run.message = failure_reason(run, end)
    # A run that is in use at its first start is somebody else's.
    elsewhere = end.code == InUseError.exit_code and run.attempts == 1
    if end.code in FINAL_EXIT_CODES or elsewhere or run.attempts > retries:
        run.state = RunState.FAILED
        show(f"{run.plan.name}: failed: {run.message}")
    else:
        run.state = RunState.WAITING
        run.not_before = time.monotonic() + RETRY_SECONDS
        show(f"{run.plan.name}: {run.message}; retry {run.attempts} of {retries}")


def failure_reason(run: RunProgress, end: End) -> str:
    """One line on why a run ended that should not have."""
    if end.reason:
        return end.reason
    if end.code == -signal.SIGKILL:
        return "killed by SIGKILL, by the out-of-memory killer if by nobody else"
    if end.code < 0:
        return f"killed by {signal.Signals(-end.code).name}"
    try:
        lines = (run.workdir / LOG_FILE).read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last.removeprefix("error: ") or f"exit code {end.code}"


def _stop(active: list[RunProgress], update: Callable[[], None]) -> None:
    """Asks all runs to stop and waits for them."""
    for run in active:
        run.job.stop()
    while active:
        time.sleep(POLL_SECONDS)
        for run in active:
            end = run.job.poll()
            run.read()
            if end is not None:
                run.job = None
                run.state = RunState.FINISHED if run.is_done(end) else RunState.STOPPED
        active[:] = [run for run in active if run.job is not None]
        update()
