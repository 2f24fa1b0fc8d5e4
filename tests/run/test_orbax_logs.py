import logging
import sys
import threading
import types

from flaxres.run.orbax_logs import closed_event_loops_ignored, logs_disabled


def test_only_records_of_this_thread_are_left_out(caplog):
    logger = logging.getLogger("absl")
    with logs_disabled():
        logger.warning("of this thread")
        other = threading.Thread(target=logger.warning, args=("of another thread",))
        other.start()
        other.join()
    logger.warning("later")
    assert caplog.messages == ["of another thread", "later"]


def test_errors_of_closed_event_loops_are_ignored(monkeypatch):
    seen = []
    monkeypatch.setattr(closed_event_loops_ignored, "_contexts", 0)  # other tests may be in it
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    with closed_event_loops_ignored:
        for text in ("Event loop is closed", "another error"):
            sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(text)))
    assert [str(unraisable.exc_value) for unraisable in seen] == ["another error"]
