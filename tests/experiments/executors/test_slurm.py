"""The part of a SLURM job that runs on the node, and errors without SLURM.

No cluster is needed; tests/cluster/test_slurm.py has the tests with one.
"""

import os
import pickle
import signal
import subprocess
import sys
import time

import pytest

from experiments.executors.base import Task
from experiments.executors.slurm import SlurmExecutor
from experiments.executors.slurm_node import KILL_SIGNAL, NodeTask
from flaxres.errors import UserError
from tests.conftest import ROOT

# Like a run: handles the first SIGTERM, needs a while to save, and ends at a second SIGTERM.
SAVES = """
import signal, sys, time
def handle(*_):
    global stop
    stop = True
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    print("saving", flush=True)
stop = False
signal.signal(signal.SIGTERM, handle)
print("ready", flush=True)
while not stop:
    time.sleep(0.05)
time.sleep(1.5)
print("saved", flush=True)
sys.exit(128 + 15)
"""
# Like submitit on a node.
JOB = """
import pickle, signal, sys
task = pickle.loads(bytes.fromhex(sys.argv[1]))
def requeue(*_):
    delayed = task.checkpoint()
    assert delayed.function.task == task.task
    print("requeued", flush=True)
    sys.exit(255)
signal.signal(signal.SIGUSR2, requeue)
task()
"""


@pytest.fixture
def job(tmp_path):
    """Starts a job with a Python program and waits until it is ready."""
    pytest.importorskip(
        "submitit", reason="needs submitit: pip install -r requirements-cluster.txt"
    )
    processes = []

    def start(program):
        task = Task("task", (sys.executable, "-c", program), ROOT, tmp_path / "log")
        process = subprocess.Popen(
            [sys.executable, "-c", JOB, pickle.dumps(NodeTask(task)).hex()],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **{name: v for name, v in os.environ.items() if not name.startswith("SLURM_")},
                **{"SUBMITIT_EXECUTOR": "slurm", "SUBMITIT_FOLDER": str(tmp_path)},
                "SLURM_JOB_ID": "7",
            },
        )
        processes.append(process)
        deadline = time.monotonic() + 30
        while not task.log.exists() or "ready" not in task.log.read_text().splitlines():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        [child] = children(process.pid)
        return process, child, task.log

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


@pytest.mark.cluster
@pytest.mark.skipif(sys.platform != "linux", reason="SLURM runs on Linux")
@pytest.mark.parametrize("to_all", [False, True])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR2])
def test_a_run_saves_whichever_processes_slurm_signals(job, tmp_path, signum, to_all):
    process, child, log = job(SAVES)
    for pid in [child] * to_all + [process.pid]:
        os.kill(pid, signum)
    if signum == signal.SIGUSR2:  # a preemption may also send SIGTERM
        for pid in [child] * to_all + [process.pid]:
            os.kill(pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert log.read_text().splitlines()[-3:] == ["ready", "saving", "saved"]
    if signum == signal.SIGUSR2:
        assert (process.returncode, out) == (255, "requeued\n")
        assert not (tmp_path / "7_exit_code").exists()
    else:
        assert (process.returncode, out) == (143, "")
        assert (tmp_path / "7_exit_code").read_text() == "143\n"


@pytest.mark.cluster
@pytest.mark.skipif(sys.platform != "linux", reason="SLURM runs on Linux")
def test_no_requeue_of_a_run_that_has_not_saved(job, tmp_path):
    fails = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3));"
    process, _, _ = job(fails + "print('ready', flush=True); signal.pause()")
    process.send_signal(signal.SIGUSR2)
    assert process.communicate(timeout=30)[0] == ""
    assert process.returncode == 3
    assert (tmp_path / "7_exit_code").read_text() == "3\n"


@pytest.mark.cluster
@pytest.mark.skipif(sys.platform != "linux", reason="SLURM runs on Linux")
def test_kill(job, tmp_path):
    process, child, _ = job(SAVES)
    process.send_signal(KILL_SIGNAL)
    process.communicate(timeout=30)
    assert process.returncode == 137
    assert (tmp_path / "7_exit_code").read_text() == "137\n"
    assert not os.path.exists(f"/proc/{child}")


OPTIONS = {"time_limit_minutes": 1, "cpus_per_task": 1, "gpus_per_task": 0, "partition": None}
OPTIONS |= {"additional": {}, "max_parallel": 1}


def test_without_submitit(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-cluster\.txt"):
        SlurmExecutor(folder=tmp_path, **OPTIONS)


@pytest.mark.cluster
def test_without_slurm(tmp_path, monkeypatch):
    pytest.importorskip(
        "submitit", reason="needs submitit: pip install -r requirements-cluster.txt"
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^SLURM's sbatch is not on the PATH; "):
        SlurmExecutor(folder=tmp_path, **OPTIONS)
