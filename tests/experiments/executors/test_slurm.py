"""The part of a SLURM job that runs on the node, and errors without SLURM.

No cluster is needed; tests/cluster/test_slurm.py has the tests with one.
"""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import pytest

from flaxres.errors import ConfigError, UserError
from flaxres.experiments.executors.base import ExitStatus, Task
from flaxres.experiments.executors.slurm import SlurmExecutor
from flaxres.experiments.executors.slurm_jobs import Queue, SlurmJob
from flaxres.experiments.executors.slurm_node import KILL_SIGNAL
from flaxres.experiments.executors.slurm_script import make_script, read_records, task_digest
from tests.conftest import ROOT
from tests.hostile_command import HostileCommand
from tests.processes import has_ended

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
ODD = """a b;$(touch pwned)'"`touch pwned`\\%A[x]é"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Returns a function that makes a shell script a program of SLURM."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)

    def install(name, script):
        (directory / name).write_text(f"#!/bin/sh\n{script}\n")
        (directory / name).chmod(0o755)

    for name in ("sbatch", "squeue", "scancel", "scontrol"):
        install(name, "exit 1")
    return install


@pytest.fixture
def job(tmp_path, programs):
    """Starts a job with a Python program and waits until it is ready."""
    programs("scontrol", 'echo "$@"')
    processes = []

    def start(program):
        task = Task("task", (sys.executable, "-c", program), ROOT, tmp_path / "log")
        process = subprocess.Popen(
            ["/bin/sh"],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "SLURM_JOB_ID": "8"}
            | {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"},
        )
        process.stdin.write(make_script([task], tmp_path).decode())
        process.stdin.close()
        process.stdin = None
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
    process.communicate(timeout=30)
    out = (tmp_path / "7_0_0_log.out").read_text()
    assert log.read_text().splitlines()[-3:] == ["ready", "saving", "saved"]
    if signum == signal.SIGUSR2:
        assert (process.returncode, out) == (255, "requeue 7_0\n")
        assert not (tmp_path / "7_0_exit_code").exists()
    else:
        assert (process.returncode, out) == (143, "")
        assert (tmp_path / "7_0_exit_code").read_text() == "143\n"


@pytest.mark.cluster
@pytest.mark.skipif(sys.platform != "linux", reason="SLURM runs on Linux")
def test_no_requeue_of_a_run_that_has_not_saved(job, tmp_path):
    fails = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3));"
    process, _, _ = job(fails + "print('ready', flush=True); signal.pause()")
    process.send_signal(signal.SIGUSR2)
    process.communicate(timeout=30)
    assert process.returncode == 3
    assert (tmp_path / "7_0_0_log.out").read_text() == ""
    assert (tmp_path / "7_0_exit_code").read_text() == "3\n"


@pytest.mark.cluster
@pytest.mark.skipif(sys.platform != "linux", reason="SLURM runs on Linux")
def test_kill(job, tmp_path):
    process, child, _ = job(SAVES)
    process.send_signal(KILL_SIGNAL)
    process.communicate(timeout=30)
    assert process.returncode == 137
    assert (tmp_path / "7_0_exit_code").read_text() == "137\n"
    assert has_ended(child)


OPTIONS = {"time_limit_minutes": 1, "cpus_per_task": 1, "gpus_per_task": 0, "partition": None}
OPTIONS |= {"additional": {}, "max_parallel": 1}


def test_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^SLURM's sbatch is not on the PATH; "):
        SlurmExecutor(folder=tmp_path, **OPTIONS)


def test_odd_characters_have_no_meaning_in_the_script(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    directory = tmp_path / ODD
    directory.mkdir()
    code = "import os, sys; print(ascii([os.getcwd(), *sys.argv[1:]]))"
    arguments = [ODD, "a\n#SBATCH --x\ntouch pwned\n", "", "-x", "\udc80"]
    task = Task(ODD, (sys.executable, "-c", code, *arguments), directory, directory / "log")
    other = Task("other", ("touch", "pwned"), directory, directory / "log")
    script = make_script([other, task], directory)
    done = subprocess.run(["/bin/sh"], input=script, cwd=tmp_path, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (directory / "7_1_0_log.err").read_text() == ""
    lines = (directory / "log").read_text(errors="replace").splitlines()
    assert lines[-1] == ascii([str(directory), *arguments])
    assert (directory / "7_1_exit_code").read_text() == "0\n"
    assert list(tmp_path.rglob("pwned")) == []
    # sbatch reads options from comments before the first command.
    assert script.startswith(b"#!/bin/sh\nlog='")


def test_options_are_arguments_of_sbatch(tmp_path, programs):
    programs("sbatch", f"for x; do echo \"$x\"; done > {tmp_path}/arguments; cat >&2; echo '12;c'")
    folder = tmp_path / ODD
    options = OPTIONS | {"partition": ODD, "additional": {"mail_user": ODD, "mem": "8G"}}
    tasks = [Task(f"task-{i}", ("true",), ROOT, tmp_path / "log") for i in range(2)]
    with SlurmExecutor(folder=folder, **options) as executor:
        assert [job.id for job in executor.submit(tasks)] == ["12_0", "12_1"]
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[0] == "--parsable"
    assert set(arguments) >= {
        *("--array=0-1%1", "--requeue", "--signal=B:USR2@15", "--mem=8G"),
        *(f"--partition={ODD}", f"--mail-user={ODD}"),
    }
    assert list(tmp_path.rglob("pwned")) == []
    record = json.loads((folder / "12_tasks.json").read_text())
    assert record == {"tasks": [task_digest(task) for task in tasks]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partition": "a\nb"}, r"^--partition=a\\nb has characters that SLURM does not accept"),
        ({"folder": "a\nb"}, r"^--workdir=.*a\\nb has characters that SLURM does not accept"),
        ({"additional": {"account": "\udc80"}}, r"^--account=.* has characters that SLURM"),
        ({"additional": {"x y": "1"}}, r"must be options of sbatch, e\.g\. account=abc, got 'x y'"),
        ({"additional": {"": "1"}}, r"must be options of sbatch.*got ''"),
    ],
)
def test_options_that_sbatch_cannot_have(tmp_path, programs, options, message):
    options = OPTIONS | {"folder": "slurm"} | options
    with pytest.raises(ConfigError, match=message) as caught:
        SlurmExecutor(**{**options, "folder": tmp_path / options["folder"]})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("script", ["echo 'sbatch: error: no\nmore' >&2; exit 1", "echo done"])
def test_sbatch_fails(tmp_path, programs, script):
    programs("sbatch", script)
    with (
        SlurmExecutor(folder=tmp_path / "slurm", **OPTIONS) as executor,
        pytest.raises(UserError, match=r"^SLURM rejects the jobs: (no; more|done)$"),
    ):
        executor.submit([Task("task", ("true",), ROOT, tmp_path / "log")])


def test_only_data_is_read_from_the_folder(tmp_path, programs):
    """Records of jobs are adopted or skipped; pickles of version 0.1.0 are never loaded."""
    programs("sbatch", "cat > /dev/null; echo 13")
    programs("squeue", 'for i in 0 1 2; do echo "12_$i|RUNNING|None"; done')
    folder = tmp_path / "slurm"
    folder.mkdir()
    task = Task("task", ("true",), ROOT, tmp_path / "log")
    content = {"tasks": [task_digest(task)]}
    (folder / "12_tasks.json").write_text(json.dumps(content))
    damaged = ["", "null", "[]", '{"tasks": [1]}', '{"tasks": {}}', "[" * 100_000, '{"tasks": ["']
    for i, text in enumerate(damaged):
        (folder / f"{i}_tasks.json").write_text(text)
    (folder / "x_tasks.json").write_text(json.dumps(content))
    os.mkfifo(folder / "9_tasks.json")
    (folder / "10_tasks.json").mkdir()
    (folder / "11_tasks.json").symlink_to(folder / "12_tasks.json")
    assert read_records(folder) == {"12_0": task_digest(task)}
    pickled = pickle.dumps(HostileCommand(tmp_path / "made"))
    (folder / "12_0_result.pkl").write_bytes(pickled)
    (folder / "5_submitted.pkl").write_bytes(pickled)
    with SlurmExecutor(folder=folder, **OPTIONS) as executor:
        other = Task("other", ("true",), ROOT, tmp_path / "log")
        assert [job.id for job in executor.submit([other, task])] == ["13_0", "12_0"]
        (folder / "12_1_submitted.pkl").write_bytes(pickled)
        with pytest.raises(UserError, match=r"earlier version .* in the queue: 12_1; wait for"):
            executor.submit([task])
    assert not (tmp_path / "made").exists()


def test_exit_codes_that_are_no_data(tmp_path):
    """SLURM's own state is then all that is known."""
    queue = Queue()
    queue.states = {"1_0": ("TIMEOUT", "None")}
    queue._last_call = time.monotonic()
    path = tmp_path / "1_0_exit_code"
    expected = ExitStatus(1, "SLURM job 1_0 was still running at its time limit")
    for make in (os.mkfifo, os.mkdir, lambda path: path.write_text("7" * 5000)):
        make(path)
        assert SlurmJob("1_0", tmp_path, queue).poll() == expected
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.write_text("3\n")
    assert SlurmJob("1_0", tmp_path, queue).poll().code == 3
