import shlex
import sys
import time

import pytest

from flaxres.experiments.executors.base import Task
from flaxres.experiments.results.logs import Log, read_log

START = "# 2026-01-02T03:04:05+00:00 host: python -m flaxres.main --config=a.py:resnet-20"
SECOND_START = "# 2026-01-02T05:00:00+00:00 other: python -m flaxres.main --config=a.py:resnet-20"


@pytest.fixture
def log(tmp_path):
    """Writes an output.log with the given lines and reads it."""

    def read(*lines):
        path = tmp_path / "output.log"
        path.write_text("\n".join(lines) + "\n")
        return read_log(path)

    return read


def test_starts_written_by_a_task(tmp_path):
    command = (sys.executable, "-c", "print('# not: a start')", "--name=a b")
    task = Task("resnet-20/seed-0", command, tmp_path, tmp_path / "output.log")
    for _ in range(2):
        task.start().wait()
    log = read_log(task.log)
    assert [shlex.split(start.command) for start in log.starts] == [list(command)] * 2
    assert log.starts[0].time.startswith(time.strftime("%Y-"))
    assert log.starts[0].time <= log.starts[1].time
    assert log.failure == ""


def test_starts_and_last_failure(log):
    result = log(
        START, "step 10/30", "error: first", SECOND_START, "step 20/30", "error: no <room>", ""
    )
    assert [(start.time, start.host) for start in result.starts] == [
        ("2026-01-02T03:04:05+00:00", "host"),
        ("2026-01-02T05:00:00+00:00", "other"),
    ]
    assert result.starts[0].command == "python -m flaxres.main --config=a.py:resnet-20"
    assert result.failure == "no <room>"


def test_a_traceback_is_a_failure(log):
    lines = ("Traceback (most recent call last):", '  File "a.py", line 1', "MemoryError: 12 GiB")
    assert log(START, *lines).failure == "MemoryError: 12 GiB"


@pytest.mark.parametrize(
    "lines",
    [
        ("step 10/30",),
        (
            "step 10/30",
            "Stopped at step 10 of 30. Checkpoint saved in x; rerun the same command to resume.",
        ),
        ("error: first", SECOND_START),  # retried
        ("error: first", SECOND_START, "step 20/30"),
    ],
)
def test_output_without_a_failure(log, lines):
    assert log(START, *lines).failure == ""


def test_comment_lines_are_not_starts(log):
    assert log("# of layers: 20", "# 2026-99-99T00:00:00 host: python", "#", "") == Log()


def test_missing_file(tmp_path):
    assert read_log(tmp_path / "output.log") == Log()
    assert read_log(tmp_path) == Log()
