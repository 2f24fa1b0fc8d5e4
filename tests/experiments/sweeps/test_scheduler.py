"""The queue, with an executor that ends its jobs as told. Real ones are in `test_sweep.py`."""

import json
import os
import signal

import pytest

from experiments.executors.base import End
from experiments.sweeps import scheduler
from experiments.sweeps.plan import LOG_FILE, grid, make_plans
from experiments.sweeps.scheduler import RunState, read_progress, run_queue
from flaxres.errors import InterruptedRunError, UserError
from tests.conftest import ROOT
from tests.experiments.results.test_runs import write_run


class Script:
    """An executor whose jobs end by a script: codes for each run, one after the other."""

    def __init__(self, workdir, codes, capacity=2):
        self.workdir, self.codes, self.capacity = workdir, codes, capacity
        self.order, self.running, self.most = [], 0, 0

    def submit(self, tasks):
        self.order += [task.name for task in tasks]
        self.running += len(tasks)
        self.most = max(self.most, self.running)
        return [ScriptedJob(self, task) for task in tasks]


class ScriptedJob:
    def __init__(self, executor, task):
        self.executor, self.task, self.polls, self.end = executor, task, 0, None

    def started(self):
        return self.polls > 0

    def poll(self):
        self.polls += 1
        if self.end is None and self.polls > (40 if "resnet-20" in self.task.name else 2):
            codes = self.executor.codes.get(self.task.name, [])
            self.finish(codes.pop(0) if codes else 0)
        return self.end

    def finish(self, code):
        if code == 0:
            record = {"step": 300, "train_error": 1.0, "test_error": 2.0}
            directory = self.executor.workdir / self.task.name
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        self.end = code if isinstance(code, End) else End(code)
        self.executor.running -= 1

    def stop(self):
        self.finish(143)

    kill = stop


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Runs nets with codes; returns their states, what was said, and the executor."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(scheduler, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(scheduler, "RETRY_SECONDS", 0.002)

    def run(nets, codes=(), retries=2, capacity=2, update=lambda: None):
        names = {net: (net, {}) for net in nets}
        codes = {f"{net}/seed-0": list(values) for net, values in dict(codes).items()}
        executor = Script(tmp_path, codes, capacity)
        runs = read_progress(make_plans(grid("configs/digits.py", names, [0]), {}), tmp_path)
        said = []
        try:
            run_queue(runs, tmp_path, executor, retries, said.append, update)
        except InterruptedRunError as error:
            said.append(str(error))
        return {run.plan.name: run for run in runs}, said, executor

    return run


@pytest.mark.parametrize(("capacity", "most"), [(1, 1), (2, 2), (None, 3)])
def test_longest_first_and_never_more_than_there_is_room_for(sweep, capacity, most):
    runs, _, executor = sweep(["plain-8", "resnet-20", "plain-14"], capacity=capacity)
    assert executor.order == ["resnet-20/seed-0", "plain-14/seed-0", "plain-8/seed-0"]
    assert executor.most == most
    assert {run.state for run in runs.values()} == {RunState.FINISHED}


def test_a_failed_run_is_tried_again_and_leaves_the_others_alone(sweep):
    runs, said, executor = sweep(["plain-8", "plain-14"], {"plain-8": [-9, 1]})
    assert [run.state for run in runs.values()] == [RunState.FINISHED] * 2
    assert executor.order.count("plain-8/seed-0") == 3
    assert executor.order.count("plain-14/seed-0") == 1
    assert "plain-8/seed-0: killed by SIGKILL, by the out-of-memory killer" in "\n".join(said)
    assert "retry 2 of 2" in "\n".join(said)


def test_in_the_end_it_has_failed(sweep):
    lost = End(-9, "its node died")
    runs, _, executor = sweep(["plain-8", "plain-14"], {"plain-8": [lost] * 5}, retries=1)
    assert executor.order.count("plain-8/seed-0") == 2
    failed = runs["plain-8/seed-0"]
    assert (failed.state, failed.message) == (RunState.FAILED, "its node died")
    assert runs["plain-14/seed-0"].state is RunState.FINISHED


@pytest.mark.parametrize("code", [2, 3, 4])
def test_what_trying_again_does_not_change(sweep, tmp_path, code):
    (tmp_path / "plain-8/seed-0").mkdir(parents=True)
    (tmp_path / "plain-8/seed-0" / LOG_FILE).write_text("# command\nerror: it diverged\n\n")
    runs, _, executor = sweep(["plain-8"], {"plain-8": [code] * 5})
    assert len(executor.order) == 1
    assert runs["plain-8/seed-0"].message == "it diverged"


def test_what_is_left_of_a_run_may_be_saving_when_it_is_tried_again(sweep):
    runs, _, executor = sweep(["plain-8"], {"plain-8": [-9, 4]})
    assert len(executor.order) == 3
    assert runs["plain-8/seed-0"].state is RunState.FINISHED


def test_an_exit_without_an_end_is_a_failure(sweep, tmp_path):
    write_run(tmp_path, "plain-8", errors=(50.0,), num_steps=200)
    (tmp_path / "plain-8/seed-0/config.json").unlink()
    (tmp_path / "plain-8/seed-0/metrics.jsonl").unlink()
    runs, _, _ = sweep(["plain-8"], {"plain-8": [5, 6, 7]})
    assert runs["plain-8/seed-0"].message == "exit code 7"


def test_a_cluster_that_is_busy_for_a_while(sweep, monkeypatch):
    monkeypatch.setattr(scheduler, "RESUBMIT_SECONDS", 0.005)
    submit, refused = Script.submit, []

    def busy(self, tasks):
        if self.order and len(refused) < 2:
            refused.append(tasks)
            raise UserError("the controller is busy")
        return submit(self, tasks)

    monkeypatch.setattr(Script, "submit", busy)
    runs, said, _ = sweep(["plain-8", "resnet-20"], {"plain-8": [-9]})
    assert said.count("the controller is busy; trying again") == 2
    assert {run.state for run in runs.values()} == {RunState.FINISHED}


def test_a_signal_stops_all(sweep):
    signals = [signal.SIGTERM]

    def update():
        if signals:
            os.kill(os.getpid(), signals.pop())

    runs, said, _ = sweep(["plain-8", "resnet-20", "plain-14"], update=update)
    states = {name: run.state for name, run in runs.items()}
    assert states == {
        "resnet-20/seed-0": RunState.STOPPED,
        "plain-14/seed-0": RunState.STOPPED,
        "plain-8/seed-0": RunState.WAITING,
    }
    assert said[-1] == "stopped; the same command goes on with 3 of 3 runs"
