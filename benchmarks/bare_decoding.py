"""Decoding of JPEG files by itself: worker processes that discard the pixels."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence

from ml_collections import ConfigDict

from flaxres.data.decode_workers import num_workers
from flaxres.data.shared_memory import DecodedImages
from flaxres.data.stream_schedule import DecodeTask, StreamSchedule
from flaxres.data.task_decoder import Decoder

_decoder: Decoder | None = None  # of a worker process


def set_decoder(decoder: Decoder) -> None:
    """Initializes a worker process of `BareDecoding`."""
    global _decoder
    _decoder = decoder


def decode(tasks: Sequence[DecodeTask]) -> int:
    """Decodes tasks into the same memory and returns their number of images."""
    if _decoder is None:
        raise RuntimeError("set_decoder has not been called in this process")
    out = DecodedImages.empty(0, _decoder.image_shape)
    for task in tasks:
        if len(out.labels) != len(task):
            out = DecodedImages.empty(len(task), _decoder.image_shape)
        _decoder(task, out)
    return sum(map(len, tasks))


class BareDecoding:
    """Worker processes that decode tasks and discard the images."""

    def __init__(self, config: ConfigDict, decoder: Decoder):
        """Starts the processes and has each decode once."""
        self._workers = max(1, num_workers(config.dataset.workers))
        self._schedule = StreamSchedule(config.batch_size, 10**9, 10**9, {"test": 1}, 1)
        context = multiprocessing.get_context("spawn")
        self._pool = context.Pool(self._workers, set_decoder, (decoder,))
        self._step = 0
        self.images_per_second(self._workers)

    def images_per_second(self, batches: int) -> float:
        """Decodes `batches` batches and returns the images per second."""
        steps = range(self._step, self._step + batches)
        tasks = [task for step in steps for task in self._schedule.step_tasks(step)]
        self._step += batches
        tasks_by_worker = [tasks[i :: self._workers] for i in range(self._workers)]
        start = time.perf_counter()
        num_images = sum(self._pool.map(decode, tasks_by_worker, chunksize=1))
        return num_images / (time.perf_counter() - start)

    def close(self) -> None:
        """Ends the processes."""
        self._pool.terminate()
        self._pool.join()
