"""Wrong flags of sweeps on clusters: one line of error before anything is submitted or written."""

import os

import pytest

from tests.commands import assert_error, run_command
from tests.conftest import ROOT

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol")


@pytest.fixture
def path(tmp_path):
    """A PATH with programs of SLURM that leave a file when they are called."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in PROGRAMS:
        (directory / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/called\nexit 1\n")
        (directory / name).chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


SLURM = [
    (("--slurm_partition=a\nb",), r"--partition=a\nb has characters that SLURM does not accept"),
    (("--slurm_options=account=\x1b[31m",), r"--account=\x1b[31m has characters that SLURM"),
    (("--slurm_options=mem",), "--slurm_options must be NAME=VALUE,..., got ['mem']"),
    (
        ("--slurm_options=;touch x=1",),
        "must be options of sbatch, e.g. account=abc, got ';touch x'",
    ),
    (
        ("--gpus_per_run=0.5",),
        "--gpus_per_run must be a whole number with --executor=slurm, got 0.5",
    ),
    (("--gpus_per_run=nan",), "--gpus_per_run must be a finite number, got nan"),
    (("--gpus_per_run=-1",), "--gpus_per_run=-1: -1.0 is not a non-negative number"),
    (
        ("--runs_per_gpu=4",),
        "--runs_per_gpu=4 applies to --executor=local, got --executor=slurm; SLURM can share GPUs",
    ),
    (("--time_limit=0",), "--time_limit=0: 0 is not a positive integer"),
]
RAY = [
    (("--ray_resources=TPU",), "--ray_resources must be NAME=VALUE,..., got ['TPU']"),
    (("--ray_resources=TPU=x",), "--ray_resources must be NAME=NUMBER,..., got ['TPU=x']"),
    (("--ray_resources=TPU=nan",), "--ray_resources must be NAME=NUMBER,..., got ['TPU=nan']"),
    (("--gpus_per_run=inf",), "--gpus_per_run must be a finite number, got inf"),
    (
        ("--runs_per_gpu=4",),
        "--executor=ray; on Ray, --gpus_per_run=0.25 lets runs share a GPU",
    ),
    (("--processes_per_run=0",), "--processes_per_run=0: 0 is not a positive integer"),
]
CASES = [("slurm", *case) for case in SLURM] + [("ray", *case) for case in RAY]


@pytest.mark.parametrize(("executor", "flags", "message"), CASES)
def test_wrong_flags(tmp_path, path, executor, flags, message):
    outcome = run_command(
        "flaxres.experiments.sweep",
        f"--sweep={ROOT}/configs/sweeps/widths.py:{ROOT}/configs/digits.py",
        *(f"--workdir={tmp_path}/sweep", f"--executor={executor}", *flags),
        env={"PATH": path},
    )
    assert_error(outcome, message)
    assert not (tmp_path / "called").exists()
    assert not (tmp_path / "sweep").exists()


def test_a_workdir_that_slurm_does_not_accept(tmp_path, path):
    outcome = run_command(
        "flaxres.experiments.sweep",
        f"--sweep={ROOT}/configs/sweeps/widths.py:{ROOT}/configs/digits.py",
        *(f"--workdir={tmp_path}/a\nb", "--executor=slurm"),
        env={"PATH": path},
    )
    assert_error(outcome, r"a\nb")
    assert sorted(os.listdir(tmp_path)) == ["bin"]
