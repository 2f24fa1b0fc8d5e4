"""What a sweep would do, and how long it would take."""

from __future__ import annotations

import heapq
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from experiments.executors.base import Executor, Task
from experiments.sweeps.plan import Plan
from experiments.sweeps.progress_table import format_duration
from experiments.sweeps.scheduler import macs_per_step, read_progress
from flaxres.errors import UserError
from flaxres.terminal import print_table


def print_plan(plans: Sequence[Plan], workdir: Path, executor: Executor, directory: Path) -> None:
    """Prints what the sweep would do, longest run first, with an estimate of the time.

    The least and the most costly net are measured where the runs would be; time is taken to grow
    with the MACs between them.

    Args:
      plans: the runs.
      workdir: of the sweep; nothing is written there.
      executor: where the runs would be.
      directory: for the output of the measurements, seen by the executor too.
    """
    runs = read_progress(plans, workdir)
    by_macs = sorted(plans, key=macs_per_step)
    ends = list({macs_per_step(plan): plan for plan in (by_macs[0], by_macs[-1])}.values())
    speeds = [measure_on(executor, plan.task(workdir), directory) for plan in ends]
    macs = [macs_per_step(plan) for plan in ends]

    table = Table(title=f"{len(plans)} runs in {workdir}", box=None, header_style="bold")
    for column in ("run", "params", "MACs", "steps", "done", "time left"):
        table.add_column(column, justify="left" if column == "run" else "right", no_wrap=True)
    seconds = []
    for progress in runs:
        plan = progress.plan
        params, run_macs = plan.count()
        position = (macs_per_step(plan) - macs[0]) / max(1, macs[-1] - macs[0])
        start, step = (
            speeds[0][key] + position * (speeds[-1][key] - speeds[0][key])
            for key in ("start", "step")
        )
        left = plan.config.num_steps - progress.step
        seconds.append(start + step * left if left else 0.0)
        table.add_row(
            plan.name,
            f"{params:,}",
            f"{run_macs / 1e6:,.4g}M",
            f"{plan.config.num_steps:,}",
            f"{progress.fraction():.0%}",
            format_duration(seconds[-1]),
        )
    measured = " and ".join(
        f"{plan.name} ({speed['start']:.1f} s to its first step, {1e3 * speed['step']:.0f} ms each)"
        for plan, speed in zip(ends, speeds, strict=True)
    )
    total, parallel = sum(seconds), makespan(seconds, executor.capacity)
    print_table(
        table,
        f"{format_duration(total)} of one worker; {format_duration(parallel)} with "
        f"{executor.capacity or 'as many workers as runs'}. Measured: {measured}. Evaluations and "
        "checkpoints are not counted.",
    )


def makespan(seconds: Sequence[float], workers: int | None) -> float:
    """When the last of the jobs ends, started in this order on the first worker that is free."""
    ends = [0.0] * min(workers or len(seconds), len(seconds))
    for own in seconds:
        heapq.heapreplace(ends, ends[0] + own)
    return max(ends)


def measure_on(executor: Executor, task: Task, directory: Path) -> dict[str, float]:
    """`measure`, where an executor would train the run of `task`.

    Args:
      executor: one free place of it is used.
      task: of a run, whose config is measured.
      directory: for the output; of a shared file system where the executor is a cluster.

    Raises:
      UserError: it fails, with its last line.
    """
    flags = [flag for flag in task.command if flag.startswith("--config")]
    command = (sys.executable, "-m", "experiments.sweeps.throughput", *flags)
    log = directory / f"{task.name.replace('/', '-')}.log"
    (job,) = executor.submit([Task(task.name, command, task.directory, log)])
    try:
        while (end := job.poll()) is None:
            time.sleep(0.2)
    except BaseException:
        job.kill()
        raise
    last = (log.read_text().strip().splitlines() or ["no output"])[-1] if log.exists() else ""
    if end.code:
        raise UserError(f"measuring the speed of {task.name} failed: {end.reason or last}")
    return json.loads(last)
