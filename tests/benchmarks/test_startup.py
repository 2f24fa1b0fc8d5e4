import sys
from pathlib import Path

import pytest

from flaxres.errors import UserError

# A program that writes its first record after 0.3 s and runs on, with a child of its own.
TRAINING = """
import os, pathlib, subprocess, sys, time
workdir = pathlib.Path(sys.argv[-1].removeprefix("--workdir="))
child = subprocess.Popen(["sleep", "100"])
pathlib.Path(os.environ["FLAXRES_CACHE"], "pid").write_text(str(child.pid))
workdir.mkdir()
(workdir / "metrics.jsonl").touch()
time.sleep(0.3)
(workdir / "metrics.jsonl").write_text("{}")
time.sleep(100)
"""


@pytest.fixture
def startup(isolated_flags):
    from benchmarks import startup

    return startup


def test_the_time_ends_with_the_first_record(startup, tmp_path):
    seconds = startup.flaxres_seconds([sys.executable, "-c", TRAINING], str(tmp_path))
    assert 0.3 <= seconds < 30
    status = Path("/proc", (tmp_path / "pid").read_text(), "stat")
    assert not status.exists() or ") Z " in status.read_text()


def test_a_program_that_fails_ends_the_benchmark_with_its_error(startup):
    command = [sys.executable, "-c", "import sys; sys.exit('note\\nerror: no such model')"]
    with pytest.raises(UserError, match=r"^error: no such model$"):
        startup.flaxres_seconds(command, "")
