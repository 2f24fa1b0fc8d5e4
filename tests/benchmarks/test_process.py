import sys
import time

import pytest

from benchmarks.process import MEMORY_VARIABLES, Worker, share_gpu, timed_steps

SERVE = """
from benchmarks.process import serve
print("a line of something else")
serve({"double": lambda n: {"is": 2 * n}}, version="1")
"""


def test_worker_reports_ready_and_answers():
    start = time.time()
    worker = Worker([sys.executable, "-c", SERVE], {})
    assert worker.ready["version"] == "1"
    assert 0 < worker.ready["first_step"] <= time.time() - start
    assert worker.ask(double={"n": 21}) == {"is": 42}
    worker.close()


def test_error_of_a_failed_worker():
    with pytest.raises(RuntimeError, match="ValueError: no such model"):
        Worker([sys.executable, "-c", "raise ValueError('no such model')"], {})


def test_a_worker_that_ends_in_a_request_tells_why():
    serve = "from benchmarks.process import serve; import os, sys\n"
    serve += "print('x' * 200_000, file=sys.stderr, flush=True)\n"  # more than a pipe holds
    serve += "def fail():\n print('out of memory', file=sys.stderr, flush=True); os.abort()\n"
    worker = Worker([sys.executable, "-c", serve + "serve({'fail': fail})"], {})
    with pytest.raises(RuntimeError, match=r"out of memory \(ended by signal 6\)"):
        worker.ask(fail={})


def test_workers_share_the_memory_of_a_gpu(monkeypatch):
    for name in MEMORY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert share_gpu() == {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    serve = "import os; from benchmarks.process import serve\nserve({}, value=os.environ.get(%r))"
    worker = Worker([sys.executable, "-c", serve % MEMORY_VARIABLES[0]], {})
    worker.close()
    assert worker.ready["value"] == "false"
    for name in MEMORY_VARIABLES:
        with monkeypatch.context() as patch:
            patch.setenv(name, ".4")
            assert share_gpu() == {}


def test_timed_steps_include_the_wait(monkeypatch):
    now, pending = 0.0, 0

    def advance():
        nonlocal pending
        pending += 4
        return 4

    def wait():  # each step takes a quarter of a second
        nonlocal now, pending
        now += 0.25 * pending
        pending = 0

    monkeypatch.setattr("benchmarks.process.time.perf_counter", lambda: now)
    assert timed_steps(advance, wait, 5.0) == {"steps": 20, "seconds": 5.0}
