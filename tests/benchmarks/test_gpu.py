"""Runs of all benchmarks within a time limit: order, failures, cut-offs, skips and resuming.

The parts are small commands that add their duration to a file, which is the clock of the budget.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.part_runner import Part, run_parts
from flaxres.errors import UserError
from tests.processes import has_ended


class Runner:
    """Runs fake parts in a directory, with a clock that their commands move."""

    def __init__(self, directory):
        self.out = directory / "out"
        self.out.mkdir()
        self.clock_file, self.log = directory / "clock", directory / "log"
        self.clock_file.write_text("")
        self.log.write_text("")

    def clock(self):
        return sum(map(float, self.clock_file.read_text().split()))

    def part(self, name, duration, end="", **options):
        code = (
            f"import os, sys, time\n"
            f"open({str(self.log)!r}, 'a').write('{name} ')\n"
            f"open({str(self.clock_file)!r}, 'a').write('{duration} ')\n"
            f"print('output of {name}', flush=True)\n"
            f"{end}\n"
            f"open({str(self.out / name)!r} + '.json', 'w').write('[1]')\n"
        )
        options = {"max_seconds": 60.0, "min_seconds": 5.0} | options
        return Part(name, (sys.executable, "-c", code), **options)

    def run(self, parts, seconds=1_000.0, on_cpu=False):
        """Runs the parts; returns the message of the error, or None."""
        self.log.write_text("")
        try:
            run_parts(parts, self.out, self.clock() + seconds, on_cpu, self.clock)
        except UserError as error:
            return str(error)
        return None

    def started(self):
        return self.log.read_text().split()

    def states(self):
        parts = json.loads((self.out / "summary.json").read_text())["parts"]
        lines = (self.out / "summary.txt").read_text().splitlines()
        assert len(lines) == len(parts)
        for part, line in zip(parts, lines, strict=True):
            assert part["name"] in line
            assert part["state"] in line
            assert part["detail"] in line
        return {part["name"]: part["state"] for part in parts}

    def detail(self, name):
        parts = json.loads((self.out / "summary.json").read_text())["parts"]
        return next(part["detail"] for part in parts if part["name"] == name)

    def files(self):
        return sorted(path.name for path in self.out.iterdir())


@pytest.fixture
def runner(tmp_path):
    return Runner(tmp_path)


def test_parts_run_in_order(runner, capsys):
    parts = [runner.part(name, 10) for name in "cab"]
    assert runner.run(parts) is None
    assert runner.started() == ["c", "a", "b"]
    assert runner.states() == dict.fromkeys("cab", "done")
    assert (runner.out / "a.txt").read_text() == "output of a\n"
    assert (runner.out / "a.json").read_text() == "[1]"
    assert "output of b" in capsys.readouterr().out


@pytest.mark.parametrize("num_done", [0, 1, 2, 3])
def test_the_time_ends_after_each_part_and_a_second_run_does_the_rest(runner, num_done, capsys):
    parts = [runner.part(name, 100) for name in "abc"]
    assert runner.run(parts, 100 * num_done + 4) is None
    done, skipped = "abc"[:num_done], "abc"[num_done:]
    assert runner.started() == list(done)
    assert runner.states() == dict.fromkeys(done, "done") | dict.fromkeys(skipped, "skipped")
    for name in skipped:
        assert runner.detail(name) == "needs 5 s, 4 s are left"
    results = [f"{name}.{suffix}" for name in done for suffix in ("json", "txt")]
    assert runner.files() == sorted([*results, "summary.json", "summary.txt"])
    rest = {
        0: "",
        1: " 1 part did not fit into the time; rerun the command to run it.",
        2: " 2 parts did not fit into the time; rerun the command to run them.",
        3: " 3 parts did not fit into the time; rerun the command to run them.",
    }[len(skipped)]
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line == f"Results are in {runner.out}.{rest}"
    assert runner.run(parts) is None
    assert runner.started() == list(skipped)
    assert runner.states() == dict.fromkeys("abc", "done")


def test_a_failure_does_not_end_the_others_and_is_tried_again(runner):
    fails = "sys.exit('error: out of memory') if not os.path.exists('{0}') else None"
    mended = runner.out.parent / "mended"
    parts = [
        runner.part("a", 10),
        runner.part("b", 10, fails.format(mended)),
        runner.part("c", 10, "os.abort()"),
        Part("d", ("/no/such/program",), 60.0, 5.0),
        runner.part("e", 10),
    ]
    (runner.out / "b.json").write_text("of an earlier run")
    message = runner.run(parts)
    assert message == f"parts failed or were cut off: b, c, d. See {runner.out / 'summary.txt'}."
    assert runner.states() == {
        "a": "done",
        "b": "failed",
        "c": "failed",
        "d": "failed",
        "e": "done",
    }
    assert runner.detail("b") == "exit code 1: error: out of memory"
    assert runner.detail("c") == "exit code -6: output of c"
    assert "No such file" in runner.detail("d")
    assert (runner.out / "b.txt").read_text() == "output of b\nerror: out of memory\n"
    assert "b.json" not in runner.files()
    mended.touch()
    assert runner.run(parts).startswith("parts failed or were cut off: c, d.")
    assert runner.started() == ["b", "c"]
    assert runner.states()["b"] == "done"


def test_a_part_is_cut_off_at_its_limit_and_leaves_its_output(runner):
    worker = runner.out.parent / "worker"
    command = f"import os, time; open({str(worker)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    waits = (
        "import subprocess\n"
        f"subprocess.Popen([sys.executable, '-c', {command!r}])\n"
        f"while not os.path.exists({str(worker)!r}) or not open({str(worker)!r}).read():\n"
        "  time.sleep(0.01)\n"
        "print('half of the table', flush=True)\n"
        "time.sleep(60)"
    )
    parts = [runner.part("a", 10, waits, max_seconds=5.0), runner.part("b", 10)]
    assert runner.run(parts).startswith("parts failed or were cut off: a.")
    assert runner.states() == {"a": "cut off", "b": "done"}
    assert runner.detail("a") == "after 5 s: half of the table"
    assert (runner.out / "a.txt").read_text() == "output of a\nhalf of the table\n"
    assert has_ended(worker.read_text())


def test_the_last_part_has_the_remaining_time(runner):
    parts = [runner.part("a", 100), runner.part("b", 0, "time.sleep(60)", min_seconds=1.0)]
    runner.run(parts, 102)
    assert runner.detail("b") == "after 2 s: output of b"


def test_parts_for_accelerators_are_skipped_on_a_cpu(runner):
    parts = [
        runner.part("a", 10, cpu_skip_reason="a profile needs a GPU or TPU"),
        runner.part("b", 10),
    ]
    assert runner.run(parts, on_cpu=True) is None
    assert runner.states() == {"a": "skipped", "b": "done"}
    assert runner.detail("a") == "a profile needs a GPU or TPU"


@pytest.mark.parametrize("change", ["command", "parts", "device"])
def test_results_of_other_commands_or_devices_are_kept(runner, change):
    parts = [runner.part("a", 10), runner.part("b", 10)]
    runner.run(parts)
    before = {name: (runner.out / name).read_bytes() for name in runner.files()}
    if change == "command":
        parts[1] = runner.part("b", 20)
    elif change == "parts":
        del parts[1]
    message = runner.run(parts, on_cpu=change == "device")
    name = "a" if change == "device" else "b"
    assert f"{name}.json of another command or device, which would be lost" in message
    assert runner.started() == []
    assert {name: (runner.out / name).read_bytes() for name in runner.files()} == before


def test_a_part_that_failed_runs_again_with_another_command(runner):
    runner.run([runner.part("a", 10, end="sys.exit(3)")])
    assert runner.run([runner.part("a", 20)]) is None
    assert runner.states() == {"a": "done"}


def test_a_part_whose_result_was_removed_runs_again(runner):
    parts = [runner.part(name, 10) for name in "ab"]
    runner.run(parts)
    (runner.out / "a.json").unlink()
    runner.run(parts)
    assert runner.started() == ["a"]


@pytest.mark.parametrize("name", ["a.json", "summary.txt"])
def test_a_file_that_cannot_be_written(runner, name):
    (runner.out / name).mkdir()
    assert "cannot be written" in runner.run([runner.part("a", 10)])


def test_a_directory_that_cannot_be_made(runner):
    runner.out = runner.log / "out"
    assert "cannot be written" in runner.run([])


def test_a_summary_that_cannot_be_read(runner):
    (runner.out / "summary.json").write_text('{"parts": [{"name"')
    assert "remove it or set another --out" in runner.run([runner.part("a", 10)])


STOPPED = """
import signal, sys, time
from pathlib import Path
from benchmarks.part_runner import Part, run_parts
signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
wait = "from flaxres.run import preemption; preemption.stop_with_parent()\\n"
wait += "import time; print('started', flush=True); time.sleep(60)"
parts = [Part(name, (sys.executable, "-c", wait), 60.0, 5.0) for name in "ab"]
run_parts(parts, Path(sys.argv[1]), time.monotonic() + 100, False)
"""


@pytest.mark.parametrize(
    ("signum", "state"), [(signal.SIGTERM, "cut off"), (signal.SIGKILL, "running")]
)
def test_a_run_that_is_stopped_leaves_output_and_summary(runner, signum, state):
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, runner.out], stdout=subprocess.PIPE, text=True
    )
    while not (runner.out / "a.txt").exists() or not (runner.out / "a.txt").read_text():
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signum)
    process.communicate()
    assert process.returncode == (143 if signum == signal.SIGTERM else -signum)
    assert runner.states() == {"a": state, "b": "waiting"}
    parts = [runner.part(name, 10) for name in "ab"]
    assert runner.run(parts) is None
    assert runner.started() == ["a", "b"]


@pytest.mark.usefixtures("isolated_flags")
def test_the_check_is_first_and_bfloat16_precedes_float32(tmp_path):
    from benchmarks.gpu import REHEARSAL, Sizes, make_parts
    from flaxres import cli

    parts = make_parts(tmp_path, "python", Sizes())
    names = [part.name for part in parts]
    assert names[:5] == [
        "device_check",
        "step_resnet-20_bfloat16_128",
        "step_resnet-56_bfloat16_128",
        "step_resnet-20_bfloat16_1024",
        "step_resnet-56_bfloat16_1024",
    ]
    assert all(name.startswith("step_") and "float32" in name for name in names[5:9])
    assert len(set(names)) == len(names) == len(make_parts(tmp_path, "python", REHEARSAL))
    for part in parts:
        assert part.min_seconds <= part.max_seconds
        for argument in part.command:
            if argument.startswith("--models="):
                cli.check_models([argument.removeprefix("--models=")])
