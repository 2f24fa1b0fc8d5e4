import sys
import time

import pytest

from benchmarks.process import Worker, timed_steps

SERVE = """
from benchmarks.process import serve
print("a line of something else")
serve({"double": lambda n: {"is": 2 * n}}, version="1")
"""


def test_a_worker_says_when_it_is_ready_and_answers():
    begin = time.time()
    worker = Worker([sys.executable, "-c", SERVE], {})
    assert worker.ready["version"] == "1"
    assert 0 < worker.ready["first_step"] <= time.time() - begin
    assert worker.ask(double={"n": 21}) == {"is": 42}
    worker.close()


def test_a_worker_that_fails_says_why():
    with pytest.raises(RuntimeError, match="ValueError: no such net"):
        Worker([sys.executable, "-c", "raise ValueError('no such net')"], {})


def test_steps_are_waited_for(monkeypatch):
    now, pending = 0.0, 0

    def advance():
        nonlocal pending
        pending += 4
        return 4

    def wait():  # a quarter of a second a step
        nonlocal now, pending
        now += 0.25 * pending
        pending = 0

    monkeypatch.setattr("benchmarks.process.time.perf_counter", lambda: now)
    assert timed_steps(advance, wait, 5.0) == {"steps": 20, "seconds": 5.0}
