"""Tests of an installed wheel: a new environment and home directory, away from the repository."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.wheel

COMMANDS = ("", "-sweep", "-degradation", "-reproduction", "-analyze", "-report")
STEPS = ("--config.num_steps=4", "--config.boundaries=(2,3)", "--config.batch_size=16")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Returns the path of a wheel of the repository, built from a copy."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    ignored = shutil.ignore_patterns(".*", "build", "runs", "site", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps")
    subprocess.run([*pip, f"--wheel-dir={directory}", source], check=True, capture_output=True)
    (wheel,) = directory.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """Returns the directory of a virtual environment with the wheel and its requirements."""
    directory = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    pip = (directory / "bin" / "pip", "--disable-pip-version-check", "install", "--quiet", wheel)
    subprocess.run(pip, check=True, capture_output=True)
    return directory


@pytest.fixture
def run(environment, tmp_path):
    """Returns a function that runs a command of the environment in an empty directory."""
    home = tmp_path / "home"
    home.mkdir()
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "FLAXRES_CACHE", "XLA_FLAGS", "GLIBC_TUNABLES")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    variables |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    directory = tmp_path / "work"
    directory.mkdir()

    def run(command, *args):
        outcome = subprocess.run(
            [environment / "bin" / command, *args],
            cwd=directory,
            env=variables,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout

    run.directory = directory
    return run


def test_only_flaxres_is_installed(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {re.sub(r"-[\d.]+\.dist-info", "", name.partition("/")[0]) for name in names} == {
        "flaxres"
    }
    for path in ("configs", "experiments"):
        expected = {f"flaxres/{file.relative_to(ROOT)}" for file in (ROOT / path).rglob("[!_]*.py")}
        assert expected <= set(names)
    for suffix in (".cc", ".h", ".jinja"):
        expected = {file.name for file in ROOT.rglob(f"flaxres/**/*{suffix}")}
        assert expected <= {Path(name).name for name in names}


def test_commands_show_their_help(run):
    for suffix in COMMANDS:
        assert "--workdir" in run(f"flaxres{suffix}", "--help")


def test_a_run_and_a_sweep(run):
    output = run("flaxres", "--config=digits:resnet-8", *STEPS, "--workdir=run")
    assert re.search(r"test error [\d.]+% after 4 steps", output)
    Path(run.directory, "own_sweep.py").write_text(
        "from experiments.sweeps import grid\n"  # the former name, as in sweep files of users
        "def get_sweep():\n"
        "    variants = {'small': ('resnet-8', {'model.widths': (4, 4, 4)})}\n"
        "    return grid('configs/digits.py', variants, range(1))\n"
    )
    run("flaxres-sweep", "--sweep=own_sweep.py", "--workdir=sweep", *STEPS)
    run("flaxres-report", "--workdir=sweep")
    files = {path.name for path in Path(run.directory, "sweep").iterdir()}
    assert {"runs.csv", "table.md", "report.html"} <= files
