import subprocess
import sys

import pytest

from flaxres.errors import InUseError
from flaxres.run.lock import lock
from tests.conftest import ROOT

HOLD_LOCK = """
import pathlib, sys
from flaxres.run.lock import lock
with lock(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_two_processes_cannot_lock_the_same_directory(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InUseError, match=f"in use by process {other.pid} on "), lock(tmp_path):
            pass
        other.kill()  # the operating system releases the lock
        other.wait()
        with lock(tmp_path):
            pass
    with lock(tmp_path):
        pass
