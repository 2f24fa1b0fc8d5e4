"""An iterator that runs in a thread, ahead of who needs its elements."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Prefetcher:
    """Runs an iterator in a thread, some elements ahead of who takes them."""

    def __init__(self, elements: Iterator[Any], ahead: int, close: Callable[[], None]):
        """Begins at once; `close` is called, in the thread, when no more is wanted."""
        self._queue: queue.Queue = queue.Queue(ahead)
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(elements, close), name="flaxres-feed", daemon=True
        )
        self._thread.start()

    def _run(self, elements: Iterator[Any], close: Callable[[], None]) -> None:
        try:
            for element in elements:
                if not self._offer((element, None)):
                    return
                del element
        except Exception as error:  # raised again by who takes it
            self._offer((None, error))
        finally:
            close()

    def _offer(self, item: tuple) -> bool:
        """Waits until there is room; False if no more is wanted."""
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return True
        return False

    def is_ready(self) -> bool:
        """Whether `next` returns at once."""
        return not self._queue.empty()

    def next(self) -> Any:
        """The next element, or the error that came in its place."""
        element, error = self._queue.get()
        if error is not None:
            raise error
        return element

    def close(self) -> None:
        """Ends the thread, in the middle of an element if need be."""
        self._closing.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._thread.join()
