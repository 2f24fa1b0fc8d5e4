"""Runs on a real Ray cluster, whose nodes are processes on this machine."""

import contextlib
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from flaxres.errors import ConfigError, UserError
from flaxres.experiments.executors import ray as ray_executor
from flaxres.experiments.executors.base import ExitStatus, Task
from flaxres.experiments.executors.ray import RayExecutor
from flaxres.run.records import read_metrics
from tests.cluster.ray_cluster import ray_cluster
from tests.conftest import ROOT, small_config
from tests.training.test_train import final_digest, metrics

pytest.importorskip("ray", reason="needs Ray: pip install -r requirements-cluster.txt")
pytestmark = pytest.mark.cluster

STEPS = 2_000
SMALL = (
    *("-m", "flaxres.main", "--config=configs/digits.py:resnet-8", "--config.batch_size=32"),
    *("--config.model.widths=(4,8,8)", "--config.num_devices=1", f"--config.num_steps={STEPS}"),
    *("--config.boundaries=(1000,1500)", "--config.log_every=50", "--config.eval_every=500"),
    "--config.checkpoint_every=100",
)
SLEEP = (
    "import time; from flaxres.run import preemption; preemption.stop_with_parent();time.sleep(300)"
)


@pytest.fixture(scope="module")
def cluster():
    """A head with room for one run."""
    with ray_cluster() as cluster:
        yield cluster


@pytest.fixture
def second(cluster):
    """A second node with room for one run and a (simulated) GPU."""
    session = cluster.add_node({"place": 1}, gpus=1)
    yield session
    cluster.stop_node(session)


def executor(cluster, **kwargs):
    arguments = {"cpus_per_task": 1, "gpus_per_task": 0, "resources": {"place": 1}}
    return RayExecutor(**{"address": cluster.address, **arguments, **kwargs})


def python_task(tmp_path, name, *arguments):
    return Task(name, (sys.executable, *arguments), ROOT, tmp_path / f"logs/{name}.txt")


def wait(condition, timeout=120):
    """Waits until `condition()` is true; returns its value."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def exit_statuses(jobs):
    """Waits until all jobs have ended."""
    wait(lambda: None not in [job.poll() for job in jobs])
    return [job.poll() for job in jobs]


def test_exit_codes_and_visible_gpus(cluster, second, tmp_path):
    show = "import os; print('GPUs:', os.environ['CUDA_VISIBLE_DEVICES'] or 'none')"
    fail = python_task(tmp_path, "fail", "-c", "raise SystemExit(7)")
    tasks = [fail, *(python_task(tmp_path, str(i), "-c", show) for i in range(3))]
    with executor(cluster) as place:
        assert place.capacity is None
        jobs = place.submit(tasks)
        assert exit_statuses(jobs) == [ExitStatus(7), ExitStatus(0), ExitStatus(0), ExitStatus(0)]
        assert all(job.has_started() for job in jobs)
        missing = Task("missing", ("/nowhere/python",), ROOT, tmp_path / "missing.txt")
        (status,) = exit_statuses(place.submit([missing]))
    assert status.code == 1
    assert "FileNotFoundError" in status.reason
    assert "\n" not in status.reason
    head, output = (tmp_path / "logs/0.txt").read_text().splitlines()
    assert head.startswith("# ")
    assert sys.executable in head
    assert output == "GPUs: none"
    with executor(cluster, gpus_per_task=1) as place:
        assert exit_statuses(place.submit(tasks[1:2])) == [ExitStatus(0)]
    assert (tmp_path / "logs/0.txt").read_text().endswith("GPUs: 0\n")


def test_runs_that_share_a_gpu(cluster, tmp_path):
    """Ray shares the GPU, and each process reserves only its part of the memory."""
    names = ("CUDA_VISIBLE_DEVICES", "XLA_CLIENT_MEM_FRACTION")
    show = f"import os, time; time.sleep(5); print([os.environ.get(name) for name in {names}])"
    tasks = [python_task(tmp_path, str(i), "-c", show) for i in range(2)]
    session = cluster.add_node({"half": 2}, cpus=2, gpus=1)
    try:
        with executor(cluster, gpus_per_task=0.5, resources={"half": 1}) as place:
            jobs = place.submit(tasks)
            wait(lambda: all(job.poll() is None and job.has_started() for job in jobs))
            assert exit_statuses(jobs) == [ExitStatus(0)] * 2
    finally:
        cluster.stop_node(session)
    for i in range(2):
        assert (tmp_path / f"logs/{i}.txt").read_text().endswith("\n['0', '0.375']\n")


def run_task(tmp_path, name="run"):
    return python_task(tmp_path, name, *SMALL, f"--workdir={tmp_path / name}")


def step(workdir):
    """Returns the last step in a run's metrics."""
    return (read_metrics(workdir) or [{"step": 0}])[-1]["step"]


def test_lost_node(cluster, tmp_path, python, capfd):
    """The run resumes on another node, with the same results as an uninterrupted run."""
    task, workdir = run_task(tmp_path), tmp_path / "run"
    with executor(cluster) as place:
        (blocker,) = place.submit([python_task(tmp_path, "blocker", "-c", SLEEP)])
        wait(blocker.has_started)  # on the head, which has no room left
        second = cluster.add_node({"place": 1})
        (job,) = place.submit([task])
        wait(lambda: job.poll() or step(workdir) >= STEPS // 10)
        assert job.poll() is None
        assert job.has_started()
        cluster.kill_node(second)
        capfd.readouterr()
        (status,) = exit_statuses([job])
        assert status.code == 1
        assert "node has died" in status.reason
        assert "\n" not in status.reason
        # The command has lost its parent process, not its machine.
        assert "SIGTERM: saving and stopping" in task.log.read_text()
        stopped = step(workdir)
        assert stopped < STEPS

        (second_job,) = place.submit([task])
        assert second_job.poll() is None
        assert not second_job.has_started()
        blocker.kill()
        assert exit_statuses([blocker, second_job]) == [ExitStatus(-9), ExitStatus(0)]
        assert "resumes from step" in task.log.read_text()
    assert capfd.readouterr() == ("", "")  # Ray prints nothing on the driver's terminal

    straight = tmp_path / "straight"
    done = python(*SMALL, f"--workdir={straight}", env={**os.environ, "PJRT_NPROC": "1"})
    assert done.returncode == 0, done.stderr
    assert "resumes" not in done.stderr
    assert metrics(workdir) == metrics(straight)
    config = small_config()
    config.num_steps = STEPS
    assert final_digest(config, workdir) == final_digest(config, straight)


def test_stop(cluster, tmp_path):
    with executor(cluster) as place:
        running, queued = place.submit(
            [run_task(tmp_path, "running"), run_task(tmp_path, "queued")]
        )
        wait(lambda: running.poll() or step(tmp_path / "running"))
        assert not queued.has_started()
        for job in (running, queued):
            job.stop()
        begin = time.monotonic()
        assert exit_statuses([running]) == [ExitStatus(143)]
        assert exit_statuses([queued]) == [ExitStatus(143, "stopped before it started")]
        assert time.monotonic() - begin < 30
    last = (tmp_path / "logs/running.txt").read_text().strip().splitlines()[-1]
    assert last.startswith("Stopped at step ")
    saved = last.split()[3].replace(",", "")
    assert (tmp_path / "running/checkpoints" / saved).is_dir()
    assert not (tmp_path / "queued").exists()
    assert not (tmp_path / "logs/queued.txt").exists()


def test_driver_ends_while_runs_are_running(cluster, tmp_path):
    """The runs save and stop, because no process waits for them."""
    task, workdir = run_task(tmp_path), tmp_path / "run"
    with executor(cluster) as place:
        (job,) = place.submit([task])
        wait(lambda: job.poll() or step(workdir))
    wait(lambda: not has_process(str(workdir)), timeout=60)
    assert "SIGTERM: saving and stopping" in task.log.read_text()
    assert step(workdir) < STEPS
    saved = [int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*")]
    assert max(saved) >= step(workdir)


def has_process(argument):
    """Returns True if a process has this text in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # the process has just ended
            if argument in path.read_text():
                return True
    return False


def test_queue_keeps_its_order(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    append = f"import sys; open({str(tmp_path / 'order')!r}, 'a').write(sys.argv[1])"
    with executor(cluster, address=None) as place:
        jobs = place.submit([python_task(tmp_path, f"{i}", "-c", append, f"{i}") for i in range(6)])
        jobs[3].stop()
        assert exit_statuses(jobs) == [
            *[ExitStatus(0)] * 3,
            ExitStatus(143, "stopped before it started"),
            *[ExitStatus(0)] * 2,
        ]
    assert (tmp_path / "order").read_text() == "01245"


def test_several_processes(cluster, second, tmp_path):
    show = (
        "import os; names = 'COORDINATOR_ADDRESS', 'NUM_PROCESSES', 'PROCESS_ID';"
        "print(*[os.environ['JAX_' + name] for name in names])"
    )
    fail = (
        "import os, sys, time; time.sleep(300 * (os.environ['JAX_PROCESS_ID'] == '0')); sys.exit(3)"
    )
    tasks = [python_task(tmp_path, "show", "-c", show), python_task(tmp_path, "fail", "-c", fail)]
    with executor(cluster, processes_per_run=2) as place:
        jobs = place.submit(tasks)
        log = tmp_path / "logs/fail.txt.process1"
        assert exit_statuses(jobs) == [
            ExitStatus(0),
            ExitStatus(3, f"process 1: exit code 3, see {log}"),
        ]
        assert all(job.has_started() for job in jobs)
        jobs = place.submit([tasks[1], tasks[0]])
        wait(lambda: jobs[0].has_started() or jobs[0].poll())
        for job in jobs:
            job.stop()
        assert [status.code for status in exit_statuses(jobs)][1] == 143
    outputs = [
        (tmp_path / f"logs/show.txt{suffix}").read_text().splitlines()[1].split()
        for suffix in ("", ".process1")
    ]
    assert outputs[0][0] == outputs[1][0]
    host, port = outputs[0][0].split(":")
    socket.getaddrinfo(host, int(port))
    assert [output[1:] for output in outputs] == [["2", "0"], ["2", "1"]]


@pytest.mark.parametrize(
    ("arguments", "kind", "part"),
    [
        ({"address": "127.0.0.1:1"}, UserError, "no Ray cluster answers at 127.0.0.1:1"),
        ({"address": "ray://127.0.0.1:1"}, ConfigError, "HOST:PORT of its head"),
        ({"address": "local"}, ConfigError, "got 'local'"),
        ({"cpus_per_task": 0}, ConfigError, "cpus_per_run must be above 0"),
        (
            {"gpus_per_task": 4},
            UserError,
            "needs 1 x (1 CPU, 4 GPU, 1 place), but the Ray cluster has room for only 0: its nodes "
            "have 1 x (1 CPU, 0 GPU, 1 place)",
        ),
        ({"processes_per_run": 2}, UserError, "needs 2 x (1 CPU, 1 place)"),
    ],
)
def test_invalid_arguments(cluster, arguments, kind, part):
    begin = time.monotonic()
    with pytest.raises(kind) as caught, executor(cluster, **arguments):
        pass
    assert type(caught.value) is kind
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begin < 30


def test_address_of_another_server(monkeypatch):
    monkeypatch.setattr(ray_executor, "CONNECT_TIMEOUT", 5)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        place = RayExecutor(address=address, cpus_per_task=1, gpus_per_task=0, resources={})
        with pytest.raises(UserError, match=f"{address} does not answer within 5 s"), place:
            pass


def test_resources_that_ray_rejects(cluster, tmp_path):
    message = r"Ray rejects the resources 1 CPU, 0\.5 place: Use the 'num_cpus'"
    with (
        executor(cluster, resources={"place": 0.5, "CPU": 1}) as place,
        pytest.raises(ConfigError, match=message),
    ):
        place.submit([run_task(tmp_path)])


def test_ray_not_installed(python):
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from flaxres.experiments.executors.ray import RayExecutor\n"
        "with RayExecutor(address=None, cpus_per_task=1, gpus_per_task=0, resources={}): pass"
    )
    error = python("-c", code).stderr.splitlines()[-1]
    assert "UserError: Ray is not installed" in error
    assert "pip install -r requirements-cluster.txt" in error
