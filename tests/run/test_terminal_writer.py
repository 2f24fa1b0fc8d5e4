import fcntl
import os
import re
import struct
import subprocess
import sys
import termios

import pytest
from rich.console import Console

from flaxres.run.terminal_writer import TerminalWriter
from tests.conftest import ROOT

RECORD = {
    "step": 12_300,
    "train_loss": 0.25,
    "train_error": 12.5,
    "test_error": 20.0,
    "images_per_second": 1234.5,
}


def shown_line(width, title="resnet-56", record=RECORD, **kwargs):
    """Returns the lines that a terminal of a width shows."""
    writer = TerminalWriter(title, 64_000)
    writer.update(12_300, record, **kwargs)
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(writer.line(width))
    return capture.get().splitlines()


@pytest.mark.parametrize(
    ("width", "parts"),
    [
        (120, "resnet-56 BAR 12300/64000 loss 0.2500 training error 12.50% test error 20.00%"),
        (100, "resnet-56 BAR 12300/64000 train 12.50% test 20.00% 1,234 images/s ETA"),
        (80, "BAR 12300/64000 train 12.50% test 20.00% 1,234 images/s ETA"),
        (60, "12300/64000 train 12.50% test 20.00% ETA"),
        (40, "12300/64000 train 12.50% ETA"),
        (20, "12300/64000 train"),
    ],
)
def test_the_live_line_fits_the_terminal(width, parts):
    (line,) = shown_line(width)
    assert len(line) <= width
    assert re.sub("[━╸╺]+", "BAR", " ".join(line.split())).startswith(parts)


def test_long_names_and_notes_fit_too():
    (line,) = shown_line(80, title="densenet-bc-100-12-with-a-long-name")
    assert re.match("[━╸╺ ]+  12300/64000  train 12.50%  test 20.00%  1,234 images/s  ETA", line)
    (line,) = shown_line(80, note="compiling")
    assert re.fullmatch("resnet-56  [━╸╺ ]+  12300/64000  compiling *", line)


def test_lines_without_a_terminal_have_times(capsys):
    with TerminalWriter("resnet-8", 20) as terminal:
        terminal.restart_clock(0)
        terminal.update(5, {"train_loss": 0.1, "train_error": 1.0})
        terminal.write(RECORD | {"step": 10})
        terminal.log("a [note]")
    lines = capsys.readouterr().err.splitlines()
    times = [line[:19] for line in lines]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", time) for time in times)
    assert [line[19:] for line in lines] == [
        "  resnet-8  step 10/20  loss 0.2500  training error 12.50%  test error 20.00%  "
        "1,234 images/s  ETA 0:00:00",
        "  a [note]",
    ]


def test_lines_come_at_most_every_log_seconds(capsys, monkeypatch):
    """Records come every second; the first and the last are printed in any case."""
    now = 1_000.0
    monkeypatch.setattr("flaxres.run.terminal_writer.time.monotonic", lambda: now)
    for log_seconds, printed in ((0.0, range(1, 13)), (5.0, (1, 6, 11, 12)), (60.0, (1, 12))):
        with TerminalWriter("resnet-8", 12, log_seconds=log_seconds) as terminal:
            terminal.restart_clock(0)
            for step in range(1, 13):
                now += 1
                terminal.write({"step": step, "train_error": 50.0})
        lines = capsys.readouterr().err.splitlines()
        assert [int(re.search(r"step (\d+)/12", line)[1]) for line in lines] == [*printed]
        assert lines[0].endswith("ETA 0:00:11")
    now = 0.0
    terminal = TerminalWriter("resnet-8", 3_600 * 49 + 1)
    now = 1.0
    terminal.update(1)
    assert terminal._eta() == "ETA 2d 1:00"


def test_quiet_prints_nothing(capsys):
    with TerminalWriter("resnet-8", 20, quiet=True) as terminal:
        terminal.log("a note")
        terminal.write(RECORD)
    assert capsys.readouterr().err == ""


def test_a_terminal_of_80_columns():
    pty = pytest.importorskip("pty")
    code = """
from flaxres.run.terminal_writer import TerminalWriter
with TerminalWriter("resnet-8", 20) as terminal:
    terminal.update(3, note="compiling")
    terminal.log("a line above the bar")
    terminal.write({"step": 10, "train_loss": 0.25, "train_error": 12.5, "images_per_second": 99.0})
"""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=slave, env=environment
    )
    os.close(slave)
    output = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # on Linux, the other end is closed
            break
        if not chunk:
            break
        output += chunk
    os.close(master)
    assert process.wait() == 0
    assert b"a line above the bar\r\n" in output
    lines = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", output.decode()).replace("\r", "\n").split("\n")
    assert max(map(len, lines)) <= 80
    shown = [line for line in lines if "10/20" in line]
    assert re.search("━ +10/20  loss 0.2500  train 12.50%  99 images/s  ETA", shown[-1])
