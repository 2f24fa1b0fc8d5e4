"""Command lines of flaxres in processes that start within a tenth of a second.

`run_command` asks a server (`tests.command_server`), which has imported JAX and flaxres already, to
fork a process for a command line. Variables that JAX or Python read when they start need a process
of its own, which takes some seconds.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT

READ_AT_START = ("JAX_", "XLA_", "PYTHON", "LC_", "LANG")  # prefixes of environment variables


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Result of a command.

    Attributes:
      code: exit code; -N if signal N ended the process.
      stdout: text on standard output; bytes that are not UTF-8 are escaped.
      stderr: text on standard error, likewise.
    """

    code: int
    stdout: str
    stderr: str


def run_command(module, *args, cwd=ROOT, env=None, timeout=60.0, stdout=None, stderr=None):
    """Runs `python -m MODULE ARGS` and returns its outcome.

    Args:
      module: name of the program, such as 'flaxres.main'.
      args: its arguments; converted to text.
      cwd: directory in which the program runs. Config files are relative to it.
      env: environment variables to set; None as a value removes a variable.
      timeout: seconds after which the process and its children are killed.
      stdout: file to which standard output is written instead, such as /dev/full.
      stderr: file to which standard error is written instead.

    Raises:
      TimeoutError: the command took longer than `timeout`.
    """
    changes = env or {}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name, value in changes.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = str(value)
    arguments = [module, *map(str, args)]
    if any(name.startswith(READ_AT_START) for name in changes):
        return _run_fresh(arguments, cwd, environment, timeout)
    with tempfile.TemporaryDirectory() as directory:
        files = Path(stdout or f"{directory}/stdout"), Path(stderr or f"{directory}/stderr")
        request = {
            "argv": [os.fsencode(argument).hex() for argument in arguments],
            "cwd": os.fsencode(cwd).hex(),
            "environment": environment,
            "stdout": str(files[0]),
            "stderr": str(files[1]),
            "timeout": timeout,
        }
        server = _server()
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        if not answer:
            _server.cache_clear()
            raise RuntimeError("the server of command lines has ended")
        code = json.loads(answer)
        outcome = Outcome(code or 0, *(_read(path) for path in files))
    if code is None:
        raise TimeoutError(f"{arguments} took more than {timeout:g} s: {outcome}")
    return outcome


def assert_error(outcome, *parts, code=None):
    """Asserts that a command ended with one line of error, and without a traceback.

    Args:
      outcome: from `run_command`.
      parts: texts that the line contains.
      code: the exit code (default: any except 0).
    """
    lines = outcome.stderr.strip().splitlines()
    assert outcome.code == code if code is not None else outcome.code > 0, outcome
    assert len(lines) == 1, outcome.stderr
    assert lines[0].startswith("error: "), outcome.stderr
    assert "Traceback" not in outcome.stdout
    for part in parts:
        assert str(part) in lines[0], outcome.stderr


def _run_fresh(arguments, cwd, environment, timeout):
    """Runs a command in a process of its own."""
    command = [sys.executable, "-m", *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(str(error)) from None
    texts = (text.decode(errors="backslashreplace") for text in (done.stdout, done.stderr))
    return Outcome(done.returncode, *texts)


def _read(path):
    return path.read_bytes().decode(errors="backslashreplace") if path.is_file() else ""


@functools.cache
def _server():
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.command_server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(_end, server)
    return server


def _end(server):
    server.stdin.close()  # the server then ends by itself
    server.wait()
    server.stdout.close()
