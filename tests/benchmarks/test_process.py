import sys
import time

import pytest

from benchmarks.process import Worker, timed_steps

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
