"""Stops of programs: closed terminals, readers that end, full outputs and signals."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from flaxres.run.checkpoint_files import checkpoint_steps, is_complete
from flaxres.run.records import read_metrics
from tests.commands import assert_error, run_command
from tests.conftest import ROOT

SMALL = (
    *("--config=configs/digits.py:plain-8", "--config.boundaries=(6,9)", "--config.batch_size=16"),
    *("--config.model.widths=(4,4,4)", "--config.log_every=4", "--config.eval_every=100000"),
    "--config.checkpoint_every=100000",
)
SUMMARY = ("--mode=summary", "--config=configs/digits.py:plain-8")


class Running:
    """A run in the background; the number of its process is in its lock file."""

    def __init__(self, workdir, **options):
        self.workdir, self.outcome = workdir, None
        flags = (*SMALL, "--config.num_steps=1000000", f"--workdir={workdir}")
        self._thread = threading.Thread(target=self._run, args=flags, kwargs=options)
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._has_metrics() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.pid = int(re.match(r"process (\d+) on ", (workdir / "lock").read_text())[1])

    def _run(self, *flags, **options):
        self.outcome = run_command("flaxres.main", *flags, **options)

    def _has_metrics(self):
        return (self.workdir / "metrics.jsonl").exists() and read_metrics(self.workdir)

    def wait(self):
        self._thread.join()
        return self.outcome


def assert_saved(workdir):
    """There is one checkpoint, of the step at which the run stopped; metrics have no gap."""
    (step,) = checkpoint_steps(workdir)
    assert is_complete(workdir, step)
    steps = [record["step"] for record in read_metrics(workdir)]
    assert steps == list(range(4, step + 1, 4))


@contextlib.contextmanager
def terminal():
    """Yields the file of a terminal; closes the terminal if the test does not."""
    master, slave = pty.openpty()
    path = os.ttyname(slave)
    os.close(slave)
    threading.Thread(target=_drain, args=(master,), daemon=True).start()
    try:
        yield path, master
    finally:
        with contextlib.suppress(OSError):
            os.close(master)


def _drain(descriptor):
    with contextlib.suppress(OSError):
        while os.read(descriptor, 4_096):
            pass


def test_a_closed_terminal(tmp_path):
    """The shell sends SIGHUP, and all later writes fail."""
    with terminal() as (path, master):
        run = Running(tmp_path, stdout=path, stderr=path)
        os.close(master)
        os.kill(run.pid, signal.SIGHUP)
        os.kill(run.pid, signal.SIGHUP)  # from the kernel and from the shell
        assert run.wait().code == 128 + signal.SIGHUP
    assert_saved(tmp_path)


def test_ctrl_c_with_a_reader_that_ends_first(tmp_path):
    """As in `python ... 2>&1 | tee log`, where Ctrl-C ends tee too."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    run = Running(tmp_path / "run", stdout=pipe, stderr=pipe)
    os.close(reader)
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait().code == 128 + signal.SIGINT
    assert_saved(tmp_path / "run")


def test_a_run_continues_without_its_display(tmp_path):
    """As in `python ... 2>&1 | head -1`."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    timer = threading.Timer(0.2, os.close, (reader,))
    timer.start()
    flags = (*SMALL, "--config.num_steps=12", f"--workdir={tmp_path / 'run'}")
    outcome = run_command("flaxres.main", *flags, stderr=path)
    assert outcome.code == 0
    assert "after 12 steps" in outcome.stdout
    assert checkpoint_steps(tmp_path / "run") == [12]


def test_full_standard_output():
    """Results that cannot be written are an error."""
    outcome = run_command("flaxres.main", *SUMMARY, stdout="/dev/full")
    assert_error(outcome, "standard output cannot be written (No space left on device)", code=1)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed):
    """Data files do not get the descriptors of closed streams."""
    program = (
        "import os, sys; from flaxres.streams import prepare_streams; prepare_streams(); "
        "file = os.open('pyproject.toml', os.O_RDONLY); "
        "print('out'); print('err', file=sys.stderr); sys.stdin.read(); "
        "os.write(1, b''); os.write(2, b''); "
        "sys.exit(42 if file > 2 else 1)"
    )
    command = f'"$0" -c "$1" {closed}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, program],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 42, done.stderr
    assert done.stdout == ("" if ">&-" in closed.split() else "out\n")
    assert done.stderr == ("" if "2>&-" in closed else "err\n")


SWEEP = f"""
from flaxres.experiments.sweeps.plan import grid


def get_sweep():
    fields = {{
        "num_steps": 1_000_000, "boundaries": (6, 9), "batch_size": 16, "log_every": 4,
        "model.widths": (4, 4, 4), "eval_every": 100_000, "checkpoint_every": 100_000,
    }}
    return grid("{ROOT}/configs/digits.py", {{"small": ("plain-8", fields)}}, (0,))
"""


@pytest.mark.slow
def test_a_sweep_in_a_closed_terminal(tmp_path):
    """Its runs save too."""
    (tmp_path / "sweep.py").write_text(SWEEP)
    workdir = tmp_path / "[sweep]"
    run = workdir / "small" / "seed-0"
    with terminal() as (path, master):
        outcomes = []
        flags = (f"--sweep={tmp_path}/sweep.py", f"--workdir={workdir}", "--workers=1")
        options = {"stdout": path, "stderr": path}
        thread = threading.Thread(
            target=lambda: outcomes.append(
                run_command("flaxres.experiments.sweep", *flags, **options)
            )
        )
        thread.start()
        deadline = time.monotonic() + 60
        while not (run / "metrics.jsonl").exists() or not read_metrics(run):
            assert time.monotonic() < deadline
            assert thread.is_alive(), outcomes
            time.sleep(0.05)
        driver = int(re.match(r"process (\d+) on ", (workdir / "lock").read_text())[1])
        os.close(master)
        os.kill(driver, signal.SIGHUP)
        thread.join()
    assert outcomes[0].code == 128 + signal.SIGHUP
    assert_saved(run)
    assert "Traceback" not in (run / "output.log").read_text()
