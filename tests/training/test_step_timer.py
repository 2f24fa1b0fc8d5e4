"""Speed of devices that run behind the host, in virtual time."""

import threading

import jax
import numpy as np
import pytest

from flaxres.run.records import read_metrics
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.step_timer import StepTimer
from flaxres.training.train import train_and_evaluate


class Clock(threading.local):
    """Virtual time of each thread, which passes only while the thread waits."""

    now = 0.0

    def wait_until(self, time):
        self.now = max(self.now, time)


class Pending:
    """An array that its device has computed at a given time."""

    def __init__(self, clock, ready_time, value=0.0):
        self.clock, self.ready_time, self.value = clock, ready_time, np.asarray(value)

    def is_ready(self):
        return self.clock.now >= self.ready_time

    def block_until_ready(self):
        self.clock.wait_until(self.ready_time)
        return self

    def __array__(self, dtype=None, copy=None):
        self.block_until_ready()
        return self.value


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("flaxres.training.step_timer.time.perf_counter", lambda: clock.now)
    return clock


def test_results_are_timed_when_they_are_ready_and_not_when_they_are_read(clock):
    timer = StepTimer(0)
    timer.watch_steps(10, Pending(clock, 2.0))
    timer.watch_pause(10, {"test": [Pending(clock, 7.0)]})
    timer.watch_steps(20, Pending(clock, 9.0))
    timer.watch_pause(20, ({}, None))
    timer.watch_steps(40, Pending(clock, 12.0))
    timer.watch_pause(40, None)
    clock.wait_until(100.0)
    speeds = []
    for step in (10, 20, 40):
        speeds.append(timer.steps_per_second(step))
        timer.restart(step)
    assert speeds == [10 / 2.0, 10 / 2.0, 20 / 3.0]
    timer.close()


def test_results_of_a_synchronous_device_are_timed_at_once(clock):
    timer = StepTimer(0)
    clock.now = 2.0
    timer.watch_steps(10, Pending(clock, 0.0))
    clock.now = 7.0  # an evaluation
    timer.watch_pause(10, [Pending(clock, 0.0)])
    clock.now = 8.0
    assert timer.steps_per_second(10) == 10 / 2.0
    timer.restart(10)
    clock.now = 9.0
    assert timer.steps_per_second(30) == 20 / 2.0  # without `watch_steps`: until now
    assert timer._thread is None


def test_an_error_of_the_device_is_raised(clock):
    class Failing(Pending):
        def block_until_ready(self):
            raise RuntimeError("out of memory")

    timer = StepTimer(0)
    timer.watch_steps(10, Failing(clock, 1.0))
    with pytest.raises(RuntimeError, match="out of memory"):
        timer.steps_per_second(10)
    timer.close()


class FakeDevice:
    """Makes training and evaluation take virtual time on a device that runs behind the host.

    A step takes a second. As on a GPU, whose queue of kernels is short, the launch of a dispatch
    returns shortly before its end.
    """

    QUEUE_SECONDS = 0.03
    EVALUATION_SECONDS = 5.0

    def __init__(self, clock, monkeypatch):
        self.clock, self.busy_until = clock, 0.0
        compile_train_steps = CompiledSteps.compile_train_steps
        launch_evaluation = CompiledSteps.launch_evaluation

        def compile_slow(compiled_steps, state, arrays, num_steps):
            steps = compile_train_steps(compiled_steps, state, arrays, num_steps)

            def launch(*arguments):
                state, metrics = steps(*arguments)
                return state, self.run(metrics, num_steps)

            return launch

        def evaluate_slow(*arguments):
            return self.run(launch_evaluation(*arguments), self.EVALUATION_SECONDS)

        monkeypatch.setattr(CompiledSteps, "compile_train_steps", compile_slow)
        monkeypatch.setattr(CompiledSteps, "launch_evaluation", evaluate_slow)

    def run(self, results, seconds):
        self.busy_until = max(self.busy_until, self.clock.now) + seconds
        self.clock.wait_until(self.busy_until - self.QUEUE_SECONDS)
        return jax.tree.map(lambda leaf: Pending(self.clock, self.busy_until, leaf), results)


@pytest.mark.parametrize("steps_per_dispatch", [1, 4])
def test_records_have_the_speed_of_the_device(
    tmp_path, config, clock, monkeypatch, steps_per_dispatch
):
    FakeDevice(clock, monkeypatch)
    config.num_steps, config.boundaries = 24, ()
    config.log_every, config.eval_every, config.checkpoint_every = 4, 8, 24
    config.steps_per_dispatch = steps_per_dispatch
    train_and_evaluate(config, tmp_path)
    records = read_metrics(tmp_path)
    assert [record["step"] for record in records] == [4, 8, 12, 16, 20, 24]
    speeds = [record["images_per_second"] for record in records]
    assert speeds == pytest.approx([config.batch_size] * 6)
