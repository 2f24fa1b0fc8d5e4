import io

import pytest
from rich.console import Console

from flaxres.experiments.sweeps import progress_table
from flaxres.experiments.sweeps.plan import grid, make_plans
from flaxres.experiments.sweeps.progress_table import ProgressTable
from flaxres.experiments.sweeps.run_progress import RunProgress, RunState
from tests.conftest import ROOT


@pytest.fixture
def runs(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    variants = {model: (model, {}) for model in ("plain-8", "plain-14", "resnet-8")}
    plans = make_plans(grid("configs/digits.py", variants, [0]), {})
    return [RunProgress(plan, tmp_path, cost=1.0) for plan in plans]


def render(table):
    """Returns the lines of the table on a terminal of 100 columns."""
    console = Console(width=100, height=table._console.height, file=io.StringIO())
    console.print(table._render())
    return console.file.getvalue().splitlines()


def test_one_row_per_run_with_running_ones_first(runs):
    waiting, running, failed = runs
    table = ProgressTable(runs, "runs/sweep")
    running.state, running.attempts, running.test_error = RunState.RUNNING, 2, 12.5
    running.record = {"step": 50, "train_error": 10.0, "images_per_second": 640.0}
    failed.state = RunState.FAILED
    header, *rows, summary = render(table)
    assert header.split() == ["run", "state", "step", "training", "error", "test", "error", "ETA"]
    assert [row.split()[0] for row in rows] == [
        "plain-14/seed-0",
        "resnet-8/seed-0",
        "plain-8/seed-0",
    ]
    # 250 steps of 128 images remain, at 640 images per second.
    assert rows[0].split()[1:] == [
        "running,",
        "retry",
        "1",
        "50/300",
        "10.00%",
        "12.50%",
        "0:00:50",
    ]
    assert summary.startswith("runs/sweep: 3 runs, 1 waiting, 1 running, 1 failed; ETA ")
    assert waiting.plan.name == "plain-8/seed-0"


def test_eta_follows_from_the_mean_speed(runs, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress_table.time, "monotonic", lambda: clock[0])
    runs[0].record = {"step": 150}  # of 300, from an earlier start
    table = ProgressTable(runs, "sweep")
    assert table.summary().endswith("ETA -")
    clock[0] += 30
    runs[0].record, runs[0].state = {"step": 300}, RunState.FINISHED
    # Half a run took 30 s; two runs remain.
    assert table.summary().endswith("ETA 0:02:00")


def test_more_runs_than_rows(runs, monkeypatch):
    table = ProgressTable(runs * 30, "sweep")
    monkeypatch.setattr(type(table._console), "height", 20)
    lines = render(table)
    assert len(lines) <= 20
    assert lines[-2].strip() == "... and 75 more"
