import os
import signal
import subprocess
import sys
import time

import pytest

from flaxres.run.preemption import (
    PARENT_VARIABLE,
    StopRequest,
    remember_interrupts,
    stop_with_parent,
)
from tests.conftest import ROOT


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_recorded_and_reported(signum, capfd):
    previous_handler = signal.getsignal(signum)
    with StopRequest() as stop:
        assert stop.signum is None
        os.kill(os.getpid(), signum)
        assert stop.signum == signum
    assert signal.Signals(signum).name in capfd.readouterr().err
    assert signal.getsignal(signum) == previous_handler


def test_a_second_ctrl_c_stops_at_once():
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


class SendsSigint:
    """Python prints and ignores what is raised while it deletes an object."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)  # the handler interrupts this


def test_an_interrupt_that_a_library_has_swallowed(monkeypatch, capfd):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    previous_handler = signal.getsignal(signal.SIGINT)
    try:
        remember_interrupts()
        SendsSigint()
        with StopRequest() as stop:
            assert stop.signum == signal.SIGINT
        with StopRequest() as stop:
            assert stop.signum is None
    finally:
        signal.signal(signal.SIGINT, previous_handler)
    assert capfd.readouterr().err == ""


def test_sighup_stays_ignored(capfd):
    """As under nohup."""
    previous_handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signum is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous_handler)
    assert capfd.readouterr().err == ""


def test_a_signal_is_recorded_although_standard_error_is_closed():
    saved = os.dup(2)
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 2)  # writes fail, as after the end of `tee`
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.signum == signal.SIGINT
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(writer)


def test_a_second_sigterm_does_not_interrupt_the_save(capfd):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
    assert capfd.readouterr().err == "\nSIGTERM: saving and stopping\n"


@pytest.mark.parametrize("parent", ["", "abc", "-1", "1.5"])
def test_a_parent_that_is_no_process(monkeypatch, parent):
    monkeypatch.setenv(PARENT_VARIABLE, parent)
    stop_with_parent()
    assert PARENT_VARIABLE not in os.environ


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl of Linux")
def test_a_process_stops_with_its_parent():
    child = """
import os, signal, sys, time
from flaxres.run.preemption import PARENT_VARIABLE, stop_with_parent
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"stopped"), os._exit(0)))
stop_with_parent()
assert PARENT_VARIABLE not in os.environ
os.write(1, b"up ")
time.sleep(60)
"""
    parent = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]],
                         env={**os.environ, "FLAXRES_PARENT": str(os.getpid())})
child.wait()
"""
    # The pipe closes when both processes have ended.
    with subprocess.Popen(
        [sys.executable, "-c", parent, child], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.read(3) == "up "
        process.kill()
        assert process.stdout.read() == "stopped"
