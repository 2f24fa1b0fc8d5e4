"""Commands without a config: errors of one line, a full disk, Ctrl-C."""

import os
import signal
import subprocess
import sys

import pytest

from flaxres import plain_commands
from flaxres.errors import WorkdirError
from tests.commands import assert_error, run_command
from tests.conftest import ROOT


def test_a_full_disk():
    outcome = run_command("flaxres.catalog", "models", stdout="/dev/full")
    assert_error(outcome, "standard output cannot be written (No space left on device)", code=1)


def test_closed_output_and_a_deleted_directory_are_no_tracebacks(tmp_path):
    command = f"rmdir {tmp_path}; {sys.executable} -m flaxres.main doctor --timeout=1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "disk (current directory)" in done.stdout
    assert "change to another directory" in done.stdout
    assert "Traceback" not in done.stderr
    command = f"{sys.executable} -m flaxres.main list weights >&-"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def test_unknown_flags():
    for command in ("flaxres.catalog", "flaxres.doctor"):
        assert_error(run_command(command, "--jsn"), "unknown flag --jsn; did you mean --json?")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (WorkdirError("x\x1b"), 1, "error: x\\x1b\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors(error, code, message, capsys):
    def fail():
        raise error

    with pytest.raises(SystemExit) as ended:
        plain_commands.run(fail)
    assert (ended.value.code, capsys.readouterr().err) == (code, message)


def test_an_interrupted_doctor_leaves_no_process():
    code = (
        "from flaxres.doctor import training; "
        "training.run_probe(command=['sleep', '60'], progress=lambda s: print(s, flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout.readline() == "import\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) != 0
        assert process.stdout.read() == ""  # no process holds the pipe
