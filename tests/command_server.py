"""Server that forks a process for each command line that it reads from standard input.

A request is a line of JSON; the answer is a line with the exit code, or null after a time-out.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import sys
import threading
import traceback
import warnings

LIBRARIES = (
    *("matplotlib.figure", "orbax.checkpoint", "tensorstore"),
    *("flaxres.experiments.results.archive", "flaxres.cli", "flaxres.evaluation.evaluate"),
    *("flaxres.inference.export", "flaxres.inference.predict", "flaxres.training.train"),
)

# `cpu.tune` would restart every process to set these.
os.environ["GLIBC_TUNABLES"] = "glibc.malloc.arena_max=1"


def main() -> None:
    """Answers requests until standard input ends."""
    _import_libraries()
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # JAX has no threads yet
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        process_id = os.fork()
        if process_id == 0:
            _run(request)
        code = _wait(process_id, request["timeout"])
        print(json.dumps(code), file=answers, flush=True)


def _import_libraries() -> None:
    """Imports what most programs import, except modules that define flags."""
    from flaxres import cpu

    cpu.set_xla_flags()
    for name in LIBRARIES:
        importlib.import_module(name)


def _wait(process_id: int, timeout: float) -> int | None:
    """Returns the exit code of a process; kills its group and returns None after a time-out."""
    descriptor = os.pidfd_open(process_id)
    ended = bool(select.select([descriptor], [], [], timeout)[0])
    if not ended:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process_id, signal.SIGKILL)
    os.close(descriptor)
    _, status = os.waitpid(process_id, 0)
    return os.waitstatus_to_exitcode(status) if ended else None


def _run(request: dict) -> None:
    """Runs the command line of a request in this process, which ends with it."""
    code = 1
    try:
        os.setpgid(0, 0)
        for descriptor, path in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
            flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
            os.dup2(os.open(path, flags, 0o600), descriptor)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.arena_max=1"
        cwd = os.fsdecode(bytes.fromhex(request["cwd"]))
        os.chdir(cwd)
        module, *arguments = (os.fsdecode(bytes.fromhex(text)) for text in request["argv"])
        sys.argv = [module, *arguments]
        sys.orig_argv = [sys.executable, "-m", *sys.argv]
        sys.path.insert(0, cwd)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code & 0xFF)


if __name__ == "__main__":
    main()
