"""Dry run of a sweep: its runs, their sizes and an estimate of their training time."""

from __future__ import annotations

import heapq
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.table import Table

from flaxres.errors import UserError, counted
from flaxres.experiments.executors.base import Executor, Task
from flaxres.experiments.sweeps.plan import Plan
from flaxres.experiments.sweeps.progress_table import format_duration
from flaxres.experiments.sweeps.run_progress import macs_per_step, read_progress
from flaxres.run.schemas import shown_json
from flaxres.terminal import print_table

POLL_SECONDS = 0.2


def print_plan(plans: Sequence[Plan], workdir: Path, executor: Executor, directory: Path) -> None:
    """Prints the runs of a sweep, the longest first, with an estimate of their training time.

    The runs with the fewest and the most multiply-adds per step are measured on the executor. The
    time of the others is interpolated linearly in the multiply-adds.

    Args:
      plans: runs of the sweep.
      workdir: workdir of the sweep, where nothing is written.
      executor: executor of the runs.
      directory: directory for the output of the measurements, which the executor can write too.
    """
    runs = read_progress(plans, workdir)
    by_macs = sorted(plans, key=macs_per_step)
    measured_plans = list(
        {macs_per_step(plan): plan for plan in (by_macs[0], by_macs[-1])}.values()
    )
    speeds = [measure_on(executor, plan.task(workdir), directory) for plan in measured_plans]
    macs = [macs_per_step(plan) for plan in measured_plans]

    table = Table(title=f"{counted(len(plans), 'run')} in {workdir}", box=None, header_style="bold")
    for column in ("run", "params", "MACs", "steps", "done", "time left"):
        table.add_column(column, justify="left" if column == "run" else "right", no_wrap=True)
    seconds = []
    for progress in runs:
        plan = progress.plan
        params, macs_per_image = plan.count_params_and_macs()
        position = (macs_per_step(plan) - macs[0]) / max(1, macs[-1] - macs[0])
        start_seconds, step_seconds = (
            speeds[0][key] + position * (speeds[-1][key] - speeds[0][key])
            for key in ("start", "step")
        )
        remaining_steps = plan.config.num_steps - progress.step
        seconds.append(start_seconds + step_seconds * remaining_steps if remaining_steps else 0.0)
        table.add_row(
            plan.name,
            f"{params:,}",
            f"{macs_per_image / 1e6:,.4g}M",
            f"{plan.config.num_steps:,}",
            f"{progress.fraction():.0%}",
            format_duration(seconds[-1]),
        )
    measured = " and ".join(
        f"{plan.name} ({speed['start']:.1f} s to the first step, "
        f"{1e3 * speed['step']:.0f} ms per step)"
        for plan, speed in zip(measured_plans, speeds, strict=True)
    )
    workers = counted(executor.capacity, "worker") if executor.capacity else "one worker per run"
    parallel_seconds = makespan(seconds, executor.capacity)
    print_table(
        table,
        f"Estimated time: {format_duration(sum(seconds))} with one worker, "
        f"{format_duration(parallel_seconds)} with {workers}, without evaluations and checkpoints. "
        f"Measured: {measured}.",
    )


def makespan(seconds: Sequence[float], workers: int | None) -> float:
    """Returns the time at which the last job ends, if each starts on the first free worker.

    Args:
      seconds: duration of each job, in the order in which they start.
      workers: number of workers; None for one per job.
    """
    end_times = [0.0] * min(workers or len(seconds), len(seconds))
    for duration in seconds:
        heapq.heapreplace(end_times, end_times[0] + duration)
    return max(end_times)


def measure_on(executor: Executor, task: Task, directory: Path) -> dict[str, float]:
    """Measures the speed of a run where an executor would train it.

    Args:
      executor: executor with a free place.
      task: task of the run, whose config is measured.
      directory: directory for the output, on a shared file system if the executor is a cluster.

    Returns:
      Result of `experiments.sweeps.throughput.measure`.

    Raises:
      UserError: the measurement fails; the message has the last line of its output.
    """
    flags = [flag for flag in task.command if flag.startswith("--config")]
    command = (sys.executable, "-m", "flaxres.experiments.sweeps.throughput", *flags)
    log = directory / f"{task.name.replace('/', '-')}.log"
    (job,) = executor.submit([Task(task.name, command, task.directory, log)])
    try:
        while (exit_status := job.poll()) is None:
            time.sleep(POLL_SECONDS)
    except BaseException:
        job.kill()
        raise
    output = log.read_text(errors="replace") if log.exists() else ""
    last_line = (output.strip().splitlines() or ["no output"])[-1]
    if exit_status.code:
        reason = exit_status.reason or last_line
        raise UserError(f"measuring the speed of {task.name} failed: {reason}")
    try:
        return msgspec.json.decode(last_line, type=dict[str, float])
    except (msgspec.MsgspecError, ValueError):
        raise UserError(
            f"measuring the speed of {task.name} failed: its last line of output must be a JSON "
            f"object of numbers, got {shown_json(last_line)}"
        ) from None
