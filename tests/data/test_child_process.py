import os
import signal
import subprocess
import sys

import pytest

from flaxres.data.child_process import run_child
from tests.conftest import ROOT

CHILD = """
import signal, sys, time
def stop(signum, frame):
    print("stopped by", signal.Signals(signum).name, flush=True)
    time.sleep(0.2)
    print("cleaned up", flush=True)
    sys.exit(7)
for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(signum, stop)
print("ready", flush=True)
time.sleep(60)
"""
PARENT = f"""
import sys
from flaxres.data.child_process import run_child
run_child([sys.executable, "-c", {CHILD!r}])
print("not reached")
"""


def test_the_exit_code_and_the_output(capfd):
    assert run_child([sys.executable, "-c", "print('text'); raise SystemExit(5)"]) == 5
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "text\n")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_on_and_the_child_ends_first(signum):
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline() == "ready\n"
    os.kill(process.pid, signum)
    stdout, stderr = process.communicate(timeout=60)
    assert stdout == ""
    assert stderr.startswith(f"stopped by {signum.name}\ncleaned up\n")
    assert process.returncode == -signum  # Python ends by SIGINT after a KeyboardInterrupt
