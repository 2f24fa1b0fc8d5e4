"""Queue of a sweep: starts runs, watches them and retries failed ones."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flaxres.errors import (
    ConfigError,
    DamagedFileError,
    DivergedError,
    InterruptedRunError,
    InUseError,
    UserError,
    printable,
)
from flaxres.experiments.executors.base import Executor, ExitStatus
from flaxres.experiments.results.logs import LOG_FILE
from flaxres.experiments.sweeps.run_progress import RunProgress, RunState
from flaxres.run.preemption import StopRequest
from flaxres.run.text_files import lines_from_end

POLL_SECONDS = 0.5
RESUBMIT_SECONDS = 30.0  # after a cluster has rejected runs
RETRY_SECONDS = 5.0  # before a failed run is retried: one of its processes may still be saving
FINAL_EXIT_CODES = (ConfigError.exit_code, DivergedError.exit_code)  # a retry would fail again


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
        errors = {"training": run.record.get("train_error"), "test": run.test_error}
        known = [f"{name} error {e:.2f}%" for name, e in errors.items() if e is not None]
        log(", ".join((f"{run.plan.name}: finished", *known)))
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
