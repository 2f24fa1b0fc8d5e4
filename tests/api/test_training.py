"""Runs trained from Python: results, threads, stops, and no leftovers in the process."""

import gc
import os
import signal
import sys
import threading

import jax
import numpy as np
import pytest

import flaxres
from flaxres.api.training import load_run, train
from flaxres.errors import ArgumentError, UserError, WorkdirError
from tests.conftest import small_config


def same_metrics(first, second):
    names = set(first.metrics) - {"images_per_second"}
    return names == set(second.metrics) - {"images_per_second"} and all(
        np.array_equal(first.metrics[name], second.metrics[name], equal_nan=True) for name in names
    )


def test_metrics_are_aligned_on_the_logged_steps(digits_run):
    result = train(small_config(), digits_run, progress=False)  # it is finished
    assert result.finished
    assert result.step == 20
    assert result.metrics["step"].tolist() == [4, 8, 10, 12, 16, 20]
    assert np.isnan(result.metrics["test_error"]).tolist() == [True, True, False, True, True, False]
    steps, errors = result.curve("test_error")
    assert steps.tolist() == [10, 20]
    assert errors[-1] == result.record["test_error"]
    assert same_metrics(result, load_run(digits_run))
    with pytest.raises(ArgumentError, match=r"no metric 'test_eror'.*did you mean 'test_error'"):
        result.curve("test_eror")


def test_two_threads_train_as_one_does(digits_run, tmp_path):
    """Each in its own thread, where no handler of signals can be set."""
    results = {}

    def run(seed):
        config = small_config()
        config.seed = seed
        results[seed] = train(config, tmp_path / str(seed), progress=False)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same_metrics(results[0], load_run(digits_run))
    assert results[1].finished
    assert not same_metrics(results[0], results[1])


class FirstRecord(threading.Event):
    """An event that is set once a run has logged a step."""

    def __init__(self, workdir):
        super().__init__()
        self._metrics = workdir / "metrics.jsonl"

    def is_set(self):
        return self._metrics.exists() and self._metrics.stat().st_size > 0


def test_an_event_stops_a_run_which_then_resumes(digits_run, tmp_path):
    workdir = tmp_path / "run"
    stopped = train(small_config(), workdir, progress=False, stop=FirstRecord(workdir))
    assert 0 < stopped.step < 20
    assert not stopped.finished
    assert same_metrics(train(small_config(), workdir, progress=False), load_run(digits_run))


def test_an_interrupt_saves_and_leaves_nothing_behind(tmp_path, monkeypatch):
    """As by Ctrl-C or the stop button of a notebook."""
    from flaxres.training.result_writer import ResultWriter

    def state():
        gc.collect()
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        descriptors = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
        return (*handlers, sys.unraisablehook, sys.stderr, threading.active_count(), descriptors)

    write = ResultWriter._write_record

    def interrupt(self, *arguments):
        write(self, *arguments)
        os.kill(os.getpid(), signal.SIGINT)

    train(small_config(), tmp_path / "first", progress=False)  # starts what starts only once
    before = state()
    with monkeypatch.context() as patch:
        patch.setattr(ResultWriter, "_write_record", interrupt)
        with pytest.raises(KeyboardInterrupt, match="Checkpoint saved in"):
            train(small_config(), tmp_path / "run", progress=False)
    assert state() == before
    assert flaxres.load(tmp_path / "run").step == load_run(tmp_path / "run").step


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("jax_disable_jit", True),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_default_prng_impl", "rbg"),
        ("jax_threefry_partitionable", False),
    ],
)
def test_settings_of_jax_that_prevent_training(tmp_path, setting, value):
    config, before = small_config(), getattr(jax.config, setting)
    jax.config.update(setting, value)
    try:
        with pytest.raises(ArgumentError, match=f"{setting} .*, got '?{value}"):
            flaxres.train(config, tmp_path / "run")
    finally:
        jax.config.update(setting, before)
    assert not (tmp_path / "run").exists()


def test_errors_are_exceptions(digits_run, tmp_path, capsys):
    config = small_config()
    config.learning_rate = -1.0
    with pytest.raises(UserError, match="learning_rate must be"):
        train(config, tmp_path)
    config = small_config()
    config.seed = 5
    with pytest.raises(WorkdirError, match="holds a run of another config"):
        train(config, digits_run)
    assert capsys.readouterr().out == ""


SCRIPT = """
import sys, threading
import flaxres
flaxres.tune()
overrides = {overrides!r}
config = flaxres.get_config("digits:resnet-8", **overrides)
thread = threading.Thread(target=flaxres.train, args=(config, sys.argv[1]))
thread.start()
thread.join()
"""


@pytest.mark.slow
def test_the_command_line_gives_the_same_results(tmp_path, python):
    """Bit for bit, also in a thread: `tune` gives a script the settings of the command."""
    overrides = {"num_steps": 8, "boundaries": (4,), "batch_size": 32, "log_every": 2}
    code = SCRIPT.format(overrides=overrides)
    done = python("-c", code, tmp_path / "script")
    assert done.returncode == 0, done.stderr
    flags = [f"--config.{name}={value}".replace(" ", "") for name, value in overrides.items()]
    workdir = tmp_path / "command"
    done = python("-m", "flaxres.main", "--config=digits:resnet-8", f"--workdir={workdir}", *flags)
    assert done.returncode == 0, done.stderr
    assert same_metrics(load_run(workdir), load_run(tmp_path / "script"))
    digests = [
        (directory / "checkpoints/8/digest/metadata").read_bytes()  # SHA-256 of the arrays
        for directory in (workdir, tmp_path / "script")
    ]
    assert digests[0] == digests[1]
