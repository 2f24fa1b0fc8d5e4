"""Runs on a real SLURM cluster of one node: requeued, preempted, canceled, forgotten."""

import contextlib
import re
import sys
import time

import pytest

from flaxres.configs import digits
from flaxres.errors import UserError
from flaxres.experiments.executors import slurm_jobs
from flaxres.experiments.executors.base import ExitStatus, Task
from flaxres.experiments.executors.slurm import SlurmExecutor
from flaxres.run.records import read_metrics
from tests.cluster.slurm_cluster import SlurmCluster, free_port
from tests.conftest import ROOT
from tests.training.test_train import final_digest, metrics

pytestmark = pytest.mark.cluster

OVERRIDES = {
    **{"num_steps": 2000, "boundaries": (1000, 1500), "batch_size": 64},
    **{"model.widths": (4, 4, 4), "log_every": 50, "eval_every": 500, "checkpoint_every": 500},
}
# Counts its starts in a file. The first start runs until SIGTERM and "saves"; the second finishes.
COUNTS = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + 15))
path = pathlib.Path(sys.argv[1])
path.write_text((path.read_text() if path.exists() else "") + "started ")
time.sleep(100 if path.read_text() == "started " else 0)
"""
IGNORES = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(100)"


@pytest.fixture(scope="module")
def cluster():
    with contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(SlurmCluster())
        except RuntimeError as error:
            pytest.skip(f"needs SLURM: {error}")
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("SLURM_CONF", str(cluster.conf))
        patch.setattr(slurm_jobs, "PERIOD", 1.0)
        yield cluster


def executor(path, **options):
    defaults = {"time_limit_minutes": 10, "cpus_per_task": 1, "gpus_per_task": 0}
    defaults |= {"partition": None, "additional": {}, "max_parallel": 10}
    return SlurmExecutor(folder=path / "slurm", **defaults | options)


@pytest.fixture
def submit(cluster, tmp_path):
    """Submits tasks in one array with a new executor; returns their jobs."""
    with contextlib.ExitStack() as stack:
        yield lambda *tasks, **options: stack.enter_context(executor(tmp_path, **options)).submit(
            tasks
        )


@pytest.fixture(scope="module", autouse=True)
def limited(cluster, tmp_path_factory):
    """A job with a time limit of one minute, submitted at once, and the file with its starts."""
    path = tmp_path_factory.mktemp("limited")
    with executor(path, time_limit_minutes=1, partition="urgent") as limited:
        [job] = limited.submit([task(path, sys.executable, "-c", COUNTS, path / "starts")])
        yield job, path / "starts"


def task(path, *command, name="task"):
    return Task(name, tuple(map(str, command)), ROOT, path / f"{name}.log")


def run(path):
    """A small run of flaxres that takes a few seconds."""
    overrides = [f"--config.{name}={value}" for name, value in OVERRIDES.items()]
    command = (sys.executable, "-m", "flaxres.main", "--config=configs/digits.py:plain-8")
    return task(path, *command, *overrides, f"--workdir={path / 'run'}", name="run")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Results of the uninterrupted run: its records and a digest of its checkpoint."""
    path = tmp_path_factory.mktemp("straight")
    assert run(path).start().wait(120) == 0, run(path).log.read_text()
    return results(path)


def results(path):
    config = digits.get_config("plain-8")
    config.update_from_flattened_dict(OVERRIDES)
    return metrics(path / "run"), final_digest(config, path / "run")


def wait(condition, seconds=120):
    """Waits for a condition; returns its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)
    return value


def wait_for_steps(path, after=0):
    """Waits until a run has logged steps well after a given step."""
    wait(lambda: (records := read_metrics(path / "run")) and records[-1]["step"] > after + 100)


def stops(path):
    """Returns the steps at which a run was stopped, from its log."""
    found = re.findall(r"^Stopped at step ([\d,]+) of", run(path).log.read_text(), re.MULTILINE)
    return [int(step.replace(",", "")) for step in found]


def starts(path):
    """Returns the steps from which a run resumed, from its log; None for a start from scratch."""
    attempts = run(path).log.read_text().split("# 20")[1:]
    found = [re.search(r"resumes from step ([\d,]+)", attempt) for attempt in attempts]
    return [match and int(match[1].replace(",", "")) for match in found]


def test_an_array(submit, tmp_path, cluster):
    commands = ("sleep 1; echo one", "echo two", "exit 3")
    tasks = [task(tmp_path, "sh", "-c", c, name=f"task-{i}") for i, c in enumerate(commands)]
    jobs = submit(*tasks)
    assert [job.id.partition("_")[2] for job in jobs] == ["0", "1", "2"]
    assert [wait(job.poll) for job in jobs] == [ExitStatus(0), ExitStatus(0), ExitStatus(3)]
    assert all(job.has_started() for job in jobs)
    assert tasks[0].log.read_text().splitlines()[1:] == ["one"]
    assert "JobState=FAILED" in cluster.run("scontrol", "show", "job", jobs[2].id)


def test_odd_characters_in_paths(cluster, tmp_path):
    path = tmp_path / """a b;$(touch pwned)'"`touch pwned`\\%A[x]é"""
    with executor(path) as place:
        [job] = place.submit([task(path, "pwd", name=path.name)])
        assert wait(job.poll) == ExitStatus(0)
    assert {file.name for file in (path / "slurm").iterdir()} >= {
        *(f"{job.id}_0_log.out", f"{job.id}_0_log.err", f"{job.id}_exit_code")
    }
    assert list(tmp_path.rglob("pwned")) == []


def test_a_command_that_cannot_be_started(submit, tmp_path):
    status = wait(submit(task(tmp_path, "/no/such/program"))[0].poll)
    assert status.code == 1
    assert "failed before its run started, or was killed; see " in status.reason
    with open(status.reason.split("see ")[1]) as log:
        assert "/no/such/program" in log.read()


def requeue(cluster, job):
    cluster.run("scontrol", "requeue", job.id)


def preempt(cluster, job):
    command = ("--cpus-per-task=3", "--output=/dev/null", "--wrap=sleep 1")
    cluster.run("sbatch", "--partition=urgent", *command)


def announce_time_limit(cluster, job):
    cluster.run("scancel", "--batch", "--signal=USR2", job.id)


def test_a_run_that_makes_room_three_times(cluster, submit, tmp_path, straight):
    """After a preemption, a requeue and its time limit, the job has the same results."""
    [job] = submit(run(tmp_path), cpus_per_task=2)
    step = 0
    for count, make_room in enumerate((preempt, requeue, announce_time_limit), 1):
        wait_for_steps(tmp_path, step)
        make_room(cluster, job)

        def requeued(count=count):
            assert job.poll() is None
            return f"Restarts={count}" in cluster.run("scontrol", "show", "job", job.id)

        wait(requeued)
        wait(lambda count=count: len(stops(tmp_path)) == count)
        step = stops(tmp_path)[-1]
    assert wait(job.poll) == ExitStatus(0)
    assert starts(tmp_path) == [None, *stops(tmp_path)]
    assert results(tmp_path) == straight


def test_canceled_by_the_user_then_stopped_then_finished(cluster, submit, tmp_path, straight):
    [job] = submit(run(tmp_path))
    wait_for_steps(tmp_path)
    cluster.run("scancel", job.id)
    assert wait(job.poll) == ExitStatus(143, f"SLURM job {job.id} was canceled (scancel)")

    queued = task(tmp_path, "true")
    jobs = submit(run(tmp_path), queued, max_parallel=1)
    wait_for_steps(tmp_path, *stops(tmp_path))
    wait(jobs[0].has_started)
    assert not jobs[1].has_started()
    for job in jobs:
        job.stop()
    assert [wait(job.poll).code for job in jobs] == [143, 1]
    assert not queued.log.exists()
    assert (tmp_path / "run/checkpoints" / str(stops(tmp_path)[1])).is_dir()

    assert wait(submit(run(tmp_path))[0].poll) == ExitStatus(0)
    assert starts(tmp_path) == [None, *stops(tmp_path)]
    assert results(tmp_path) == straight


def test_kill(submit, tmp_path):
    [job] = submit(task(tmp_path, sys.executable, "-c", IGNORES))
    wait(job.has_started)
    time.sleep(1)
    begin = time.monotonic()
    job.kill()
    assert wait(job.poll).code != 0
    assert time.monotonic() - begin < 15  # less than KillWait, which is 20


def test_a_second_executor_adopts_the_jobs_of_the_first(cluster, submit, tmp_path, monkeypatch):
    tasks = [task(tmp_path, "sleep", "3", name=name) for name in ("one", "two", "three")]
    first = submit(*tasks[:2])
    # As in a job of SLURM, whose variables must not reach the new jobs.
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    second = submit(*tasks)
    assert [job.id for job in second[:2]] == [job.id for job in first]
    assert [wait(job.poll) for job in second] == [ExitStatus(0)] * 3
    assert [task.log.read_text().count("# ") for task in tasks] == [1, 1, 1]
    assert wait(submit(tasks[0])[0].poll) == ExitStatus(0)
    assert tasks[0].log.read_text().count("# ") == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"partition": "fast"}, "Invalid partition name specified"),
        ({"gpus_per_task": 1}, "Invalid generic resource .gres. specification"),
        ({"additional": {"color": "red"}}, "unrecognized option '--color=red'"),
    ],
)
def test_jobs_that_slurm_rejects(submit, tmp_path, capfd, options, words):
    with pytest.raises(UserError, match=rf"^SLURM rejects the jobs: .*{words}.*$") as caught:
        submit(task(tmp_path, "true"), **options)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_job_that_would_never_start(cluster, submit, tmp_path):
    [job] = submit(task(tmp_path, "true"), time_limit_minutes=61)  # main has a limit of 60
    reason = f"SLURM job {job.id} would never start (PartitionTimeLimit); it was canceled"
    assert wait(job.poll) == ExitStatus(1, reason)
    array_id = job.id.partition("_")[0]
    assert "JobState=CANCELLED" in cluster.run("scontrol", "show", "job", array_id)


def test_no_controller(cluster, submit, tmp_path, monkeypatch):
    conf = tmp_path / "slurm.conf"
    lines = cluster.conf.read_text().splitlines()
    lines = [line for line in lines if not line.startswith("SlurmctldPort=")]
    conf.write_text("\n".join([*lines, f"SlurmctldPort={free_port()}"]))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    with pytest.raises(UserError, match="Unable to contact slurm controller"):
        submit(task(tmp_path, "true"))


def test_the_time_limit(limited):
    job, path = limited
    assert wait(job.poll) == ExitStatus(0)
    assert path.read_text() == "started started "


def test_a_lost_node(cluster, submit, tmp_path):
    [job] = submit(task(tmp_path, "sleep", "100"))
    wait(job.has_started)
    cluster.run("scontrol", "update", f"JobId={job.id}", "Requeue=0")
    cluster.run("scontrol", "update", f"NodeName={cluster.host}", "State=DOWN", "Reason=test")
    try:
        exit_status = wait(job.poll)
        assert exit_status.code != 0
        assert exit_status.reason == f"SLURM job {job.id} lost its node"
    finally:
        cluster.run("scontrol", "update", f"NodeName={cluster.host}", "State=RESUME")


def test_a_controller_that_stops_and_forgets_a_job(cluster, submit, tmp_path):
    done, long = submit(
        task(tmp_path, "sleep", "5", name="done"), task(tmp_path, "sleep", "100", name="long")
    )
    wait(long.has_started)
    cluster.stop_controller()
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        assert (done.poll(), long.poll()) == (None, None)
        time.sleep(0.5)
    cluster.start_controller("-c")
    assert wait(done.poll) == ExitStatus(0)
    assert wait(long.poll) == ExitStatus(1, f"SLURM job {long.id} is no longer known to SLURM")
