import threading
import time

import pytest

from flaxres.data.prefetch import Prefetcher


def test_elements_come_in_order_and_only_size_are_prefetched():
    created, closed = [], threading.Event()

    def elements():
        for i in range(10):
            created.append(i)
            yield i

    prefetcher = Prefetcher(elements(), 2, closed.set)
    deadline = time.monotonic() + 5
    while len(created) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert created == [0, 1, 2]  # two are in the queue, and the third waits for room
    assert prefetcher.is_ready()
    assert [prefetcher.next() for _ in range(4)] == [0, 1, 2, 3]
    assert not closed.is_set()
    prefetcher.close()
    assert closed.is_set()
    assert len(created) <= 8


def test_next_raises_the_error_of_the_iterator_in_its_place():
    def elements():
        yield 1
        raise KeyError("lost")

    closed = threading.Event()
    prefetcher = Prefetcher(elements(), 5, closed.set)
    assert prefetcher.next() == 1
    with pytest.raises(KeyError, match="lost"):
        prefetcher.next()
    prefetcher.close()
    assert closed.is_set()
