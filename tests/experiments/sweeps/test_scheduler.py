"""The queue of a sweep, with simulated jobs; `test_sweep.py` has tests with real processes."""

import json
import os
import signal

import pytest

from flaxres.errors import InterruptedRunError, UserError
from flaxres.experiments.executors.base import ExitStatus
from flaxres.experiments.sweeps import scheduler
from flaxres.experiments.sweeps.plan import LOG_FILE, grid, make_plans
from flaxres.experiments.sweeps.run_progress import RunState, read_progress
from flaxres.experiments.sweeps.scheduler import run_queue
from tests.conftest import ROOT
from tests.experiments.results.test_runs import write_run


class ScriptedExecutor:
    """An executor whose jobs end with given exit codes, one for each attempt of a run."""

    def __init__(self, workdir, codes, capacity=2):
        self.workdir, self.codes, self.capacity = workdir, codes, capacity
        self.order, self.running, self.max_running = [], 0, 0

    def submit(self, tasks):
        self.order += [task.name for task in tasks]
        self.running += len(tasks)
        self.max_running = max(self.max_running, self.running)
        return [ScriptedJob(self, task) for task in tasks]


class ScriptedJob:
    def __init__(self, executor, task):
        self.executor, self.task, self.polls, self.exit_status = executor, task, 0, None

    def has_started(self):
        return self.polls > 0

    def poll(self):
        self.polls += 1
        if self.exit_status is None and self.polls > (40 if "resnet-20" in self.task.name else 2):
            codes = self.executor.codes.get(self.task.name, [])
            self.finish(codes.pop(0) if codes else 0)
        return self.exit_status

    def finish(self, code):
        if code == 0:
            record = {"step": 300, "train_error": 1.0, "test_error": 2.0}
            directory = self.executor.workdir / self.task.name
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        self.exit_status = code if isinstance(code, ExitStatus) else ExitStatus(code)
        self.executor.running -= 1

    def stop(self):
        self.finish(143)

    kill = stop


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Runs models with exit codes; returns their progress, the log lines and the executor."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(scheduler, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(scheduler, "RETRY_SECONDS", 0.002)

    def run(models, codes=(), retries=2, capacity=2, update=lambda: None):
        variants = {model: (model, {}) for model in models}
        codes = {f"{model}/seed-0": list(values) for model, values in dict(codes).items()}
        executor = ScriptedExecutor(tmp_path, codes, capacity)
        runs = read_progress(make_plans(grid("configs/digits.py", variants, [0]), {}), tmp_path)
        messages = []
        try:
            run_queue(runs, tmp_path, executor, retries, messages.append, update)
        except InterruptedRunError as error:
            messages.append(str(error))
        return {run.plan.name: run for run in runs}, messages, executor

    return run


@pytest.mark.parametrize(("capacity", "max_running"), [(1, 1), (2, 2), (None, 3)])
def test_longest_first_and_never_more_than_the_capacity(sweep, capacity, max_running):
    runs, _, executor = sweep(["plain-8", "resnet-20", "plain-14"], capacity=capacity)
    assert executor.order == ["resnet-20/seed-0", "plain-14/seed-0", "plain-8/seed-0"]
    assert executor.max_running == max_running
    assert {run.state for run in runs.values()} == {RunState.FINISHED}


def test_a_failed_run_is_retried_and_does_not_affect_the_others(sweep):
    runs, messages, executor = sweep(["plain-8", "plain-14"], {"plain-8": [-9, 1]})
    assert [run.state for run in runs.values()] == [RunState.FINISHED] * 2
    assert executor.order.count("plain-8/seed-0") == 3
    assert executor.order.count("plain-14/seed-0") == 1
    assert (
        "plain-8/seed-0: killed by SIGKILL, probably by the kernel's out-of-memory killer"
        in "\n".join(messages)
    )
    assert "retry 2 of 2" in "\n".join(messages)


def test_a_run_fails_after_the_last_retry(sweep):
    lost = ExitStatus(-9, "its node died")
    runs, _, executor = sweep(["plain-8", "plain-14"], {"plain-8": [lost] * 5}, retries=1)
    assert executor.order.count("plain-8/seed-0") == 2
    failed = runs["plain-8/seed-0"]
    assert (failed.state, failed.message) == (RunState.FAILED, "its node died")
    assert runs["plain-14/seed-0"].state is RunState.FINISHED


@pytest.mark.parametrize("code", [2, 3, 4])
def test_final_errors_are_not_retried(sweep, tmp_path, code):
    (tmp_path / "plain-8/seed-0").mkdir(parents=True)
    (tmp_path / "plain-8/seed-0" / LOG_FILE).write_text("# command\nerror: it diverged\n\n")
    runs, _, executor = sweep(["plain-8"], {"plain-8": [code] * 5})
    assert len(executor.order) == 1
    assert runs["plain-8/seed-0"].message == "it diverged"


def test_a_run_in_use_by_its_earlier_attempt_is_retried(sweep):
    runs, _, executor = sweep(["plain-8"], {"plain-8": [-9, 4]})
    assert len(executor.order) == 3
    assert runs["plain-8/seed-0"].state is RunState.FINISHED


def test_exit_codes_without_a_message(sweep, tmp_path):
    write_run(tmp_path, "plain-8", errors=(50.0,), num_steps=200)
    (tmp_path / "plain-8/seed-0/config.json").unlink()
    (tmp_path / "plain-8/seed-0/metrics.jsonl").unlink()
    runs, _, _ = sweep(["plain-8"], {"plain-8": [5, 6, 7]})
    assert runs["plain-8/seed-0"].message == "exit code 7"


def test_a_cluster_that_rejects_runs_for_a_while(sweep, monkeypatch):
    monkeypatch.setattr(scheduler, "RESUBMIT_SECONDS", 0.005)
    submit, rejected = ScriptedExecutor.submit, []

    def busy(self, tasks):
        if self.order and len(rejected) < 2:
            rejected.append(tasks)
            raise UserError("the controller is busy")
        return submit(self, tasks)

    monkeypatch.setattr(ScriptedExecutor, "submit", busy)
    runs, messages, _ = sweep(["plain-8", "resnet-20"], {"plain-8": [-9]})
    assert messages.count("the controller is busy; retrying") == 2
    assert {run.state for run in runs.values()} == {RunState.FINISHED}


def test_a_signal_stops_all_runs(sweep):
    signals = [signal.SIGTERM]

    def update():
        if signals:
            os.kill(os.getpid(), signals.pop())

    runs, messages, _ = sweep(["plain-8", "resnet-20", "plain-14"], update=update)
    states = {name: run.state for name, run in runs.items()}
    assert states == {
        "resnet-20/seed-0": RunState.STOPPED,
        "plain-14/seed-0": RunState.STOPPED,
        "plain-8/seed-0": RunState.WAITING,
    }
    assert messages[-1] == (
        "Stopped with 3 of 3 runs unfinished. Rerun the same command to resume."
    )


def test_a_permanent_error_is_logged_once_and_not_retried_for_every_run(sweep):
    missing = ExitStatus(1, "data set 'a' is missing")
    codes = {model: [missing] * 5 for model in ("plain-8", "plain-14", "plain-26")}
    runs, messages, executor = sweep(list(codes), codes, capacity=1)
    assert {run.state for run in runs.values()} == {RunState.FAILED}
    assert sum("data set 'a' is missing" in message for message in messages) == 1
    assert len(executor.order) < 9  # not every run is started three times
