"""The command line of sweeps, with real processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from flaxres.run.checkpoint import Checkpoints
from tests.commands import run_command
from tests.conftest import ROOT
from tests.processes import has_ended
from tests.training.test_train import metrics

SWEEP = """
from flaxres.experiments.sweeps.plan import grid

def get_sweep(config="configs/digits.py"):
    variants = {"good": ("resnet-8", {}), "bad": ("plain-8", {"learning_rate": 1e30})}
    return grid(config, variants, [0])
"""
SMALL = (
    *("--config.num_steps=300", "--config.boundaries=(150,225)", "--config.batch_size=16"),
    *("--config.model.widths=(4,4,4)", "--config.log_every=5", "--config.eval_every=20"),
    *("--config.checkpoint_every=10",),
)


def arguments(path, workdir, *flags):
    return (f"--sweep={path}", f"--workdir={workdir}", *SMALL, *flags)


def command(path, workdir, *flags):
    return [sys.executable, "-m", "experiments.sweep", *arguments(path, workdir, *flags)]


def start(path, workdir, *flags):
    return subprocess.Popen(
        command(path, workdir, *flags),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def sweep(tmp_path):
    path = tmp_path / "sweep.py"
    path.write_text(SWEEP)
    return path


def wait_for_step(run, step, seconds=120):
    """Waits until a run has metrics of `step`."""
    deadline = time.monotonic() + seconds
    while f'"step": {step},' not in read(run / "metrics.jsonl"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read(path):
    return path.read_text() if path.exists() else ""


def worker(run):
    """Returns the id of the process that trains a run, which holds the lock of its directory."""
    return int(read(run / "lock").split()[1])


@pytest.mark.slow
def test_killed_diverged_stopped_and_resumed(sweep, tmp_path):
    uninterrupted = start(sweep, tmp_path / "uninterrupted", "--only=good/*", "--workers=1")
    output, _ = uninterrupted.communicate(timeout=200)
    assert uninterrupted.returncode == 0, output
    assert "good/seed-0: finished" in output

    workdir = tmp_path / "runs"
    good, bad = workdir / "good/seed-0", workdir / "bad/seed-0"
    process = start(sweep, workdir)
    wait_for_step(good, 15)
    os.kill(worker(good), signal.SIGKILL)  # like the out-of-memory killer
    second = run_command("flaxres.experiments.sweep", *arguments(sweep, workdir), timeout=100)
    assert second.code == 4
    assert f"workdir {workdir} is in use by process {process.pid} on " in second.stderr
    wait_for_step(good, 25)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130, output
    assert "good/seed-0: killed by SIGKILL" in output
    assert "bad/seed-0: failed: training diverged" in output
    assert "Stopped with 1 of 2 runs unfinished. Rerun the same command to resume." in output
    assert "incomplete" in read(workdir / "curves.svg") or "good" in read(workdir / "table.md")

    process = start(sweep, workdir)
    wait_for_step(good, 40)
    pid = worker(good)
    process.kill()  # the sweep, which cannot stop its runs any more
    process.communicate()
    assert has_ended(pid)
    assert "SIGTERM: saving and stopping" in read(good / "output.log")

    process = start(sweep, workdir)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "1 of 2 runs failed: bad/seed-0; the reasons are above" in output
    assert "good/seed-0: finished" in output
    assert not (bad / "metrics.jsonl").exists() or not read(bad / "metrics.jsonl")
    # The results are those of an uninterrupted run.
    assert metrics(good) == metrics(tmp_path / "uninterrupted/good/seed-0")
    assert digests(good) == digests(tmp_path / "uninterrupted/good/seed-0")
    assert "resumes from step" in read(good / "output.log")

    before = (good / "metrics.jsonl").stat().st_mtime_ns
    done = run_command("flaxres.experiments.sweep", *arguments(sweep, workdir, "--only=good/*"))
    output = done.stdout + done.stderr
    assert "2 runs" not in output
    assert "1 finished" in output
    assert (good / "metrics.jsonl").stat().st_mtime_ns == before


def digests(run):
    """Returns the step and the digests of the last checkpoint."""
    with Checkpoints(run) as checkpoints:
        last = checkpoints.steps()[-1]
    return last, json.loads((run / f"checkpoints/{last}/digest/metadata").read_text())


def test_dry_run(sweep, tmp_path):
    done = run_command(
        "flaxres.experiments.sweep", *arguments(sweep, tmp_path / "runs", "--dry_run")
    )
    assert done.code == 0, done
    assert not (tmp_path / "runs").exists()
    output = done.stdout + done.stderr
    (line,) = (line for line in output.splitlines() if line.strip().startswith("good/seed-0 "))
    # 3x3 filters: 4 of one channel, then 6 convolutions of 4 channels; norms; dense layer.
    params = 36 + 6 * 144 + 7 * 8 + 50
    assert f" {params:,} " in line
    assert "300" in line.split()
    assert "ms per step" in output


@pytest.mark.parametrize(
    ("flags", "code", "part"),
    [
        (("--only=none",), 2, "--only=none matches none of the 2 runs"),
        (("--workers=99",), 2, "workers must be from 1 to "),
        (("--config.bogus=1",), 2, "unknown config field 'bogus'"),
        (("--config=configs/digits.py",), 2, "only config fields can be set here"),
        (("--executor=cloud",), 2, "executor"),
        (("--plot_only",), 1, "no run with metrics in"),
    ],
)
def test_invalid_input_is_reported_in_one_line(sweep, tmp_path, flags, code, part):
    done = run_command("flaxres.experiments.sweep", *arguments(sweep, tmp_path / "runs", *flags))
    assert done.code == code
    output = done.stdout + done.stderr
    assert len(output.strip().splitlines()) == 1, output
    assert part in output
    assert not (tmp_path / "runs").exists()
