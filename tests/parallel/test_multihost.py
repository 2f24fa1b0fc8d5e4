"""Runs of several real processes on this machine."""

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
    # Several processes add in another order. With seed 0 and jax 0.11, rounding changes the sign
    # of an input of ReLU, and the gradient by the contribution of one image.
    "--config.seed=1",
)


def start(workdir, num_devices, *flags):
    """Starts a training process with virtual CPU devices."""
    return subprocess.Popen(
        [sys.executable, "-m", "flaxres.main", *FLAGS, *flags, f"--workdir={workdir}"],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(num_devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_address():
    """Returns HOST:PORT with a port of this machine that no process uses."""
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free_socket.getsockname()[1]}"


def start_two(workdir, *flags):
    """Starts a run of two processes with two devices each."""
    common = (*flags, f"--coordinator_address={free_address()}", "--num_processes=2")
    return [start(workdir, 2, *common, f"--process_id={i}") for i in range(2)]


def last_state(workdir):
    config = small_config()
    template = CompiledSteps(config, load_dataset(config.dataset)).state_shape
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.restore(template, pytest.fail)


def assert_same_run(one, other):
    for record, other_record in zip(metrics(one), metrics(other), strict=True):
        assert record == pytest.approx(other_record, rel=1e-4)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    jax.tree.map(close, last_state(one), last_state(other))


def finish(processes):
    """Returns the outputs of processes, which must succeed."""
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return outputs


@pytest.fixture(scope="module")
def single_process_run(tmp_path_factory):
    """Workdir of a finished run of one process with four devices."""
    workdir = tmp_path_factory.mktemp("single_process")
    finish([start(workdir, 4)])
    return workdir


@pytest.mark.slow
def test_two_processes_equal_one_and_stop_together(tmp_path, single_process_run):
    workdir = tmp_path / "two"
    processes = start_two(workdir, "--config.parallelism=pmap")
    metrics_file = workdir / "metrics.jsonl"
    while not metrics_file.exists() or b"\n" not in metrics_file.read_bytes():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], outputs
    assert all("saved in" in output for output in outputs)
    assert "training error" in outputs[0]
    assert "training error" not in outputs[1]

    processes = start_two(workdir)  # resumes with jit
    outputs = finish(processes)
    assert "resumes from step" in outputs[0]
    assert "training error" not in outputs[1]
    assert_same_run(single_process_run, workdir)


@pytest.mark.slow
def test_each_process_streams_its_shard_of_the_images(tmp_path, single_process_run):
    stream = "--config.dataset.placement=stream", "--config.dataset.workers=0"
    finish(start_two(tmp_path, *stream))
    assert_same_run(single_process_run, tmp_path)


@pytest.mark.slow
def test_an_error_ends_all_processes_with_one_line_each(tmp_path):
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
        ({"SLURM_NTASKS": "4"}, None),  # an allocation without a step of several tasks
        ({"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_STEP_NUM_TASKS": "2"}, ("auto", None, None)),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, ("auto", None, None)),
        ({"TPU_PROCESS_ADDRESSES": "10.0.0.1:8476,10.0.0.2:8476"}, ("auto", None, None)),
        ({"TPU_WORKER_HOSTNAMES": "t1v-0,t1v-1"}, ("auto", None, None)),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            ("h:1", 2, 0),
        ),
    ],
)
def test_settings_from_environment(environment, expected):
    assert multihost.settings_from_environment(environment) == expected


def test_incomplete_environment_is_rejected():
    with pytest.raises(ConfigError, match="JAX_PROCESS_ID=None"):
        multihost.settings_from_environment(
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2"}
        )


@pytest.mark.parametrize("arguments", [("host:1", 2, None), ("host", 2, 0), ("host:1", 2, 2)])
def test_invalid_arguments_are_rejected(arguments):
    with pytest.raises(ConfigError, match="needs coordinator_address HOST:PORT"):
        multihost.initialize(*arguments)


def test_no_process_listens_at_the_address():
    with pytest.raises(
        DistributedError, match=r"process 1 could not reach process 0 at 127.0.0.1:9"
    ):
        multihost.initialize("127.0.0.1:9", 2, 1, timeout=1)


def test_processes_with_different_data_stop_together(monkeypatch):
    multihost.check_same_on_all_processes("f" * 64, "data")  # one process
    other = int("0" * 7, 16)
    monkeypatch.setattr(
        multihost,
        "max_over_processes",
        lambda value: max(value, other if value >= 0 else -other),
    )
    multihost.check_same_on_all_processes("0" * 64, "data")
    with pytest.raises(DistributedError, match="have different data") as caught:
        multihost.check_same_on_all_processes("f" * 64, "data")
    assert caught.value.on_all_processes


@pytest.mark.parametrize(
    ("changes", "visible"),
    [
        ({}, "all"),  # one task on each of two nodes
        ({"SLURM_STEP_NUM_NODES": "1"}, "0"),  # two tasks on a node
        ({"JAX_LOCAL_DEVICE_IDS": "0,1"}, "0,1"),
    ],
)
def test_a_task_that_has_a_node_to_itself_uses_all_gpus(changes, visible):
    """Reads which GPUs JAX lets the first process see; the others need not exist for that."""
    code = (
        "import jax; from flaxres.parallel.multihost import initialize\n"
        f"initialize('{free_address()}', 1, 0)\n"
        "print(jax.config.values['jax_cuda_visible_devices'])"
    )
    slurm = {
        **{"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"},
        **{"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "2"},
        "SLURM_STEP_NUM_NODES": "2",
    }
    environment = {**os.environ, **slurm, **changes}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == visible, result.stderr
