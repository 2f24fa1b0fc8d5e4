"""Flags of a sweep that change the commands of its runs."""

import contextlib
import types

import pytest

from flaxres.experiments.sweeps import execution, launch
from flaxres.experiments.sweeps.plan import grid, make_plans
from tests.conftest import ROOT


def test_runs_receive_the_flags_for_changed_data_and_schedules(tmp_path, monkeypatch):
    commands = []

    def run_queue(runs, workdir, *_):
        commands.extend(run.plan.task(workdir).command for run in runs)

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(execution, "run_queue", run_queue)
    monkeypatch.setattr(launch, "make_executor", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(launch, "RETRIES", types.SimpleNamespace(value=0))
    plans = make_plans(grid("configs/digits.py", {"small": ("resnet-8", {})}, [0, 1]), {})
    for given in (True, False):
        for name, value in (
            *(("ALLOW_DATA_CHANGE", given), ("ALLOW_SCHEDULE_CHANGE", given)),
            ("RESUME", "auto"),
        ):
            monkeypatch.setattr(launch, name, types.SimpleNamespace(value=value))
        launch.run(plans, tmp_path, on_end=pytest.fail)
        assert len(commands) == 2
        for command in commands:
            assert ("--allow_data_change" in command) is given
            assert ("--allow_schedule_change" in command) is given
            assert command[-1].startswith("--workdir=")
        commands.clear()
