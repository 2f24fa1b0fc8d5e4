"""Decode workers: threads, or processes of Grain, that decode images before they are needed.

Images and their order do not depend on the number of workers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import multiprocessing
import os
import re
import signal
import sys
import threading

import numpy as np

from flaxres.cpu.processor import available_cores
from flaxres.data.leftovers import name_semaphores, remove_leftovers
from flaxres.data.main_module import workers_without_main_module
from flaxres.data.shared_memory import DecodedImages, SharedBuffers
from flaxres.data.stream_schedule import MAX_TASK_SIZE, DecodeTasks
from flaxres.data.task_decoder import Decoder
from flaxres.errors import DatasetError, UserError, one_line

MAX_WORKERS = 16  # if the config does not set the number
SEMAPHORE_KIB = 100  # in /dev/shm for the queues of a worker: 25 files of one page
# Python's resource tracker, a process of its own, removes the semaphores of a killed process and
# warns. `_worker_ended` reports the end of a worker instead.
RESOURCE_TRACKER_FILTER = "ignore:resource_tracker:UserWarning"


def num_workers(configured: int) -> int:
    """Returns the number of worker processes for `config.dataset.workers`.

    -1 stands for one per core that this process may use, up to `MAX_WORKERS`.
    """
    return min(len(available_cores()), MAX_WORKERS) if configured < 0 else configured


class DecodeStream:
    """Decoded images, task by task, decoded before they are requested; must be closed.

    Attributes:
      max_ahead: largest number of tasks that are decoded before they are requested.
    """

    def __init__(
        self,
        tasks: DecodeTasks,
        decoder: Decoder,
        workers: int,
        ahead: int,
        start: int = 0,
        max_task_size: int = MAX_TASK_SIZE,
    ):
        """Starts the workers.

        Args:
          tasks: images to decode; can be sent to another process.
          decoder: decoder of the tasks.
          workers: number of worker processes; 0 for threads of this process.
          ahead: approximate number of tasks to decode before they are requested. Worker processes
            decode at least four each.
          start: number of the first task to decode.
          max_task_size: number of images of the largest task.

        Raises:
          DatasetError: there is not enough memory for the worker processes.
        """
        import grain  # the import takes seconds, and only streams need it
        from absl import flags

        profiling = "grain_enable_multiprocess_worker_profiling"
        if not flags.FLAGS.is_parsed() and profiling in flags.FLAGS:
            # Grain reads this flag, which programs without absl's command line never parse.
            flags.FLAGS[profiling].present = 1
        self._tasks, self._workers, self._image_shape = tasks, workers, decoder.image_shape
        self._start = self._next = start
        self._buffers: SharedBuffers | None = None
        self._stack = contextlib.ExitStack()
        if workers:
            # Grain 0.2.18 fills two buffers of n tasks, one on each side of the process, and holds
            # two tasks more (counted in shared memory).
            grain_buffer = max(1, round((ahead / workers - 2) / 2))
            self.max_ahead = workers * (2 * grain_buffer + 2)
            read_options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
            self._buffers = SharedBuffers(
                self.max_ahead + workers, max_task_size, decoder.image_shape, start
            )
        else:
            num_threads = len(available_cores())
            self.max_ahead = ahead + num_threads
            read_options = grain.ReadOptions(
                num_threads=num_threads, prefetch_buffer_size=self.max_ahead
            )
        decode = _DecodeByNumber(tasks, decoder, self._buffers)
        dataset = grain.MapDataset.range(start, len(tasks)).map(decode)
        dataset = dataset.to_iter_dataset(read_options)
        if workers:
            if RESOURCE_TRACKER_FILTER not in sys.warnoptions:
                sys.warnoptions.append(RESOURCE_TRACKER_FILTER)  # inherited by new processes
            remove_leftovers()
            name_semaphores()
            self._stack.enter_context(workers_without_main_module)
            options = grain.MultiprocessingOptions(
                num_workers=workers, per_worker_buffer_size=grain_buffer
            )
            dataset = dataset.mp_prefetch(options, worker_init_fn=_initialize_worker)
        self._iterator = iter(dataset)

    def read_into(self, out: DecodedImages) -> None:
        """Copies the images of the next task, which has the size of `out`.

        Raises:
          DatasetError: an image cannot be decoded, or a worker ended unexpectedly.
          StopIteration: there is no next task.
        """
        if self._iterator is None:
            raise StopIteration
        try:
            decoded = next(self._iterator)
        except UserError as error:
            # A new exception, without Grain's traceback and notes.
            raise type(error)(*error.args) from None
        except RuntimeError as error:
            if not (code := re.search(r"exit code (-?\d+)", str(error))):
                raise
            raise _worker_ended(int(code[1]), self._workers) from None
        except OSError as error:
            if self._next > self._start or not self._workers:
                raise
            reason = error.strerror or one_line(error)
            raise DatasetError(
                f"decode workers cannot start ({reason}); their semaphores need "
                f"{SEMAPHORE_KIB * self._workers} KiB of /dev/shm: free or enlarge it, or choose "
                "--config.dataset.workers=0 (threads)"
            ) from error
        if self._buffers is None:
            out.copy_from(decoded)
        else:
            self._buffers.read_into(self._next, out)
        self._next += 1

    def __iter__(self) -> DecodeStream:
        return self

    def __next__(self) -> DecodedImages:
        """Returns the images of the next task in newly allocated memory.

        Raises:
          DatasetError: an image cannot be decoded, or a worker ended unexpectedly.
        """
        if self._next >= len(self._tasks):
            raise StopIteration
        out = DecodedImages.empty(len(self._tasks[self._next]), self._image_shape)
        self.read_into(out)
        return out

    def close(self) -> None:
        """Stops the workers and frees the shared memory; there is no next task any more."""
        if self._iterator is None:
            return
        if self._buffers is not None:
            self._buffers.free_all()
        self._iterator.close()
        # Grain's iterators lie in reference cycles, so only the collector frees them.
        self._iterator = None
        gc.collect()
        self._stack.close()
        if self._buffers is not None:
            self._buffers.close()


@dataclasses.dataclass(frozen=True)
class _DecodeByNumber:
    """Decodes tasks by their numbers, into shared buffers or, if there are none, new memory."""

    tasks: DecodeTasks
    decoder: Decoder
    buffers: SharedBuffers | None

    def __call__(self, number: int | np.integer) -> DecodedImages | int:
        number = int(number)
        task = self.tasks[number]
        if self.buffers is not None:
            self.decoder(task, self.buffers.wait_for_buffer(number, len(task)))
            return number  # Grain would drop None
        out = DecodedImages.empty(len(task), self.decoder.image_shape)
        self.decoder(task, out)
        return out


def _initialize_worker(number: int, count: int) -> None:
    """Makes a worker process end when its parent ends, and ignore stop requests.

    A terminal or a job scheduler sends these signals to all processes. The run needs its workers
    until it has saved a checkpoint.
    """
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("a decode worker must be a child process")
    threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _worker_ended(exit_code: int, workers: int) -> DatasetError:
    """Returns the error for a worker that ended with this exit code (negative: by a signal)."""
    cause = f"with exit code {exit_code}"
    if exit_code < 0:
        cause = f"by signal {-exit_code}"
        names = {int(s): s.name for s in signal.Signals}
        cause += f" ({names[-exit_code]})" if -exit_code in names else ""
    return DatasetError(
        f"one of {workers} decode workers was ended {cause}; if memory is short, "
        "choose fewer with --config.dataset.workers (0: threads) or a smaller "
        "--config.dataset.prefetch; rerun the same command to resume from the last "
        "checkpoint"
    )
