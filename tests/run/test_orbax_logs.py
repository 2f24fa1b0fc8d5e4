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


def test_overlapping_contexts_restore_the_hook(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    hook = sys.unraisablehook
    first, second = closed_event_loops_ignored, closed_event_loops_ignored
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    for text in ("Event loop is closed", "another error"):
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(text)))
    second.__exit__(None, None, None)
    assert sys.unraisablehook is hook
    assert [str(unraisable.exc_value) for unraisable in seen] == ["another error"]
