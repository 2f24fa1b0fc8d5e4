import threading
import time

import pytest

from flaxres.data.prefetch import Prefetcher


def test_elements_come_in_order_and_no_more_than_asked_for_are_made():
    made, closed = [], threading.Event()

    def elements():
        for i in range(10):
            made.append(i)
            yield i

    ahead = Prefetcher(elements(), 2, closed.set)
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2]  # two wait, and one has no room yet
    assert ahead.is_ready()
    assert [ahead.next() for _ in range(4)] == [0, 1, 2, 3]
    assert not closed.is_set()
    ahead.close()
    assert closed.is_set()
    assert len(made) <= 8


def test_an_error_comes_in_its_place():
    def elements():
        yield 1
        raise KeyError("lost")

    closed = threading.Event()
    ahead = Prefetcher(elements(), 5, closed.set)
    assert ahead.next() == 1
    with pytest.raises(KeyError, match="lost"):
        ahead.next()
    ahead.close()
    assert closed.is_set()
