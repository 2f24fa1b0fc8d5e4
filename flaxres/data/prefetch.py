"""Prefetching: runs an iterator in a background thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

PUT_TIMEOUT = 0.1  # seconds between two checks for `close` while the queue is full


class Prefetcher:
    """Keeps up to `size` elements of an iterator ready in a queue."""

    def __init__(self, elements: Iterator[Any], size: int, close: Callable[[], None]):
        """Starts the thread. The thread calls `close` when it ends."""
        self._queue: queue.Queue[tuple[Any, Exception | None]] = queue.Queue(size)
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(elements, close), name="flaxres-prefetch", daemon=True
        )
        self._thread.start()

    def _run(self, elements: Iterator[Any], close: Callable[[], None]) -> None:
        try:
            for element in elements:
                if not self._put(element):
                    return
                del element  # only the queue holds its memory while the next one is computed
        except Exception as error:  # `next` raises it in the consumer's thread
            self._put(None, error)
        finally:
            close()

    def _put(self, element: Any, error: Exception | None = None) -> bool:
        """Waits for room in the queue; returns False if the prefetcher was closed instead."""
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put((element, error), timeout=PUT_TIMEOUT)
                return True
        return False

    def is_ready(self) -> bool:
        """Returns True if the next element is already in the queue."""
        return not self._queue.empty()

    def next(self) -> Any:
        """Returns the next element, or raises the exception that the iterator raised."""
        element, error = self._queue.get()
        if error is not None:
            raise error
        return element

    def close(self) -> None:
        """Stops the thread and discards the elements in the queue."""
        self._closing.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._thread.join()
