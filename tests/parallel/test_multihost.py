"""Several real processes on this machine."""

import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from flaxres.data import load_dataset
from flaxres.errors import ConfigError, DistributedError
from flaxres.parallel import multihost
from flaxres.run.checkpoint import Checkpoints
from flaxres.training.compiled_steps import CompiledSteps
from tests.conftest import ROOT, small_config
from tests.training.test_train import metrics

FLAGS = (
    *(
        "--config=configs/digits.py:resnet-8",
        "--config.num_steps=20",
        "--config.boundaries=(10,15)",
    ),
    *("--config.batch_size=32", "--config.model.widths=(4,8,8)", "--config.log_every=4"),
    *("--config.eval_every=10", "--config.checkpoint_every=5", "--config.augment.pad=1"),
    # Processes add in another order. With seed 0 and jax 0.11 that takes an input of ReLU across 0,
    # and a gradient changes by as much as an image weighs.
    "--config.seed=1",
)


def start(workdir, devices, *flags):
    """A training process that sees so many virtual devices."""
    return subprocess.Popen(
        [sys.executable, "-m", "flaxres.main", *FLAGS, *flags, f"--workdir={workdir}"],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_two(workdir, *flags):
    """Two processes of two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = (*flags, f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2")
    return [start(workdir, 2, *common, f"--process_id={i}") for i in range(2)]


def last_state(workdir):
    config = small_config()
    like = CompiledSteps(config, load_dataset(config.dataset)).state_shape
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.restore(like, pytest.fail)


def assert_same_run(one, other):
    for ours, theirs in zip(metrics(one), metrics(other), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    jax.tree.map(close, last_state(one), last_state(other))


def finish(processes):
    """Outputs of processes that succeed."""
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return outputs


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The directory of a run of one process with four devices."""
    workdir = tmp_path_factory.mktemp("one")
    finish([start(workdir, 4)])
    return workdir


@pytest.mark.slow
def test_two_processes_equal_one_and_stop_together(tmp_path, one):
    two = tmp_path / "two"
    processes = start_two(two, "--config.parallelism=pmap")
    while not (two / "metrics.jsonl").exists() or b"\n" not in (two / "metrics.jsonl").read_bytes():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)  # of one of them
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], outputs
    assert all("saved in" in output for output in outputs)
    assert "train error" in outputs[0]
    assert "train error" not in outputs[1]

    processes = start_two(two)  # goes on under the other compiler
    outputs = finish(processes)
    assert "resumes from step" in outputs[0]
    assert "training error" not in outputs[1]
    assert_same_run(one, two)


@pytest.mark.slow
def test_each_of_two_processes_streams_its_own_images(tmp_path, one):
    stream = "--config.dataset.placement=stream", "--config.dataset.workers=0"
    finish(start_two(tmp_path, *stream))
    assert_same_run(one, tmp_path)


@pytest.mark.slow
def test_a_failure_of_one_ends_both_in_one_line_each(tmp_path):
    (tmp_path / "file").touch()
    processes = start_two(tmp_path / "file")
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [1, 1], outputs
    for output in outputs:
        assert sum(line.startswith("error: ") for line in output.splitlines()) == 1, output
        assert "Traceback" not in output


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "4"}, None),  # a shell in an allocation is not a step of tasks
        ({"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_STEP_NUM_TASKS": "2"}, ("auto", None, None)),
        ({"TPU_WORKER_HOSTNAMES": "t1v-0,t1v-1"}, ("auto", None, None)),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            ("h:1", 2, 0),
        ),
    ],
)
def test_what_an_environment_asks_for(environment, expected):
    assert multihost.settings_from_environment(environment) == expected


def test_half_an_environment():
    with pytest.raises(ConfigError, match="JAX_PROCESS_ID=None"):
        multihost.settings_from_environment(
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2"}
        )


@pytest.mark.parametrize("given", [("host:1", 2, None), ("host", 2, 0), ("host:1", 2, 2)])
def test_arguments_that_make_no_sense(given):
    with pytest.raises(ConfigError, match="needs coordinator_address HOST:PORT"):
        multihost.initialize(*given)


def test_nobody_at_the_address():
    with pytest.raises(
        DistributedError, match=r"process 1 could not reach process 0 at 127.0.0.1:9"
    ):
        multihost.initialize("127.0.0.1:9", 2, 1, timeout=1)
