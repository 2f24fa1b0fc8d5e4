"""Decode workers: threads, or processes of Grain, that decode images before they are needed.

Images and their order do not depend on the number of workers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flaxres.cpu.processor import available_cores
from flaxres.data.crops import Cropper
from flaxres.data.decode import BrokenImageError, EncodedImage, has_damaged_metadata
from flaxres.data.jpeg import JpegCropper, load_cropper
from flaxres.data.leftovers import name_semaphores, remove_leftovers
from flaxres.data.main_module import workers_without_main_module
from flaxres.data.resize import Crop, image_to_array
from flaxres.data.sampler import EpochSampler
from flaxres.data.shared_memory import DecodedImages, SharedBuffers
from flaxres.data.source import Source, check_image_size, check_label
from flaxres.data.stream_schedule import MAX_TASK_SIZE, DecodeTask, DecodeTasks
from flaxres.errors import DatasetError, UserError, one_line

MAX_WORKERS = 16  # if the config does not set the number
SEMAPHORE_KIB = 100  # in /dev/shm for the queues of a worker: 25 files of one page
# Python's resource tracker, a process of its own, removes the semaphores of a killed process and
# warns. `_worker_ended` reports the end of a worker instead.
RESOURCE_TRACKER_FILTER = "ignore:resource_tracker:UserWarning"

LabeledPixels = tuple[UInt8[np.ndarray, "height width channels"], int]
Counts = tuple[int, int]  # images that could not be decoded, images without their metadata


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Reads and decodes the images of decode tasks; can be sent to another process.

    Attributes:
      sources: source of each split.
      sampler: order of the training images.
      cropper: crops for training and evaluation.
      image_shape: (height, width, channels) of the decoded images.
      num_classes: number of classes; labels must be below it.
      skip_broken: if True, images that cannot be decoded are skipped and counted. In training, the
        next image that can be decoded takes their place.
      jpeg_library: compiled functions for JPEG files (`flaxres.data.jpeg.find_library`), or None.
    """

    sources: Mapping[str, Source]
    sampler: EpochSampler
    cropper: Cropper
    image_shape: tuple[int, int, int]
    num_classes: int
    skip_broken: bool
    jpeg_library: Path | None = None

    def __call__(self, task: DecodeTask, out: DecodedImages) -> None:
        """Decodes the images of a task into `out`, which has the same size.

        Images that are not valid are zeros.

        Raises:
          DatasetError: an image cannot be read or decoded, differs in size from `image_shape`, or
            has a label that is not a class.
        """
        load = self._load_for_training if task.training else self._load_for_evaluation
        out.counts[:] = 0
        for i, number in enumerate(map(int, task.numbers)):
            example = None
            if number >= 0:
                example, counts = load(task.split, number)
                out.counts[:] += counts
            out.valid[i] = example is not None
            out.images[i], out.labels[i] = (0, 0) if example is None else example

    def _load_for_training(self, split: str, position: int) -> tuple[LabeledPixels, Counts]:
        """Loads the image at a position, or the next one that can be decoded.

        Returns the image with its label, and the numbers for `DecodedImages.counts`.
        """
        source = self.sources[split]
        for skipped in range(len(source)):
            index = int(self.sampler.images(position + skipped, position + skipped + 1)[0])
            crop = functools.partial(self.cropper.train_crop, position=position + skipped)
            try:
                example, is_damaged = self._load(source, index, crop)
            except BrokenImageError:
                if not self.skip_broken:
                    raise
                continue
            return example, (skipped, int(is_damaged))
        raise DatasetError(f"none of the {len(source):,} training images can be decoded")

    def _load_for_evaluation(self, split: str, index: int) -> tuple[LabeledPixels | None, Counts]:
        """Loads an image with its label, or returns None for them if it cannot be decoded.

        Also returns the numbers for `DecodedImages.counts`.
        """
        try:
            example, is_damaged = self._load(self.sources[split], index, self.cropper.eval_crop)
        except BrokenImageError:
            if not self.skip_broken:
                raise
            return None, (1, 0)
        return example, (0, int(is_damaged))

    def _load(
        self, source: Source, index: int, draw_crop: Callable[[tuple[int, int]], Crop]
    ) -> tuple[LabeledPixels, bool]:
        """Loads a crop of an image with its label.

        Args:
          source: source of the image.
          index: its index.
          draw_crop: returns the crop for an image of a (width, height).

        Returns:
          The example, and True if damaged metadata was ignored.
        """
        image, label = source.read(index)
        check_label(label, self.num_classes, source.describe(index))
        pixels = None
        if self.jpeg_library is not None and isinstance(image, EncodedImage):
            pixels = crop_jpeg(image, draw_crop, load_cropper(self.jpeg_library))
        is_damaged = False
        if pixels is None:
            decoded = image.decode() if isinstance(image, EncodedImage) else image
            is_damaged = has_damaged_metadata(decoded)
            pixels = image_to_array(draw_crop(decoded.size).apply(decoded))
        check_image_size(pixels.shape[:2], self.image_shape[:2], source.describe(index))
        return (pixels, label), is_damaged


def crop_jpeg(
    image: EncodedImage, draw_crop: Callable[[tuple[int, int]], Crop], cropper: JpegCropper
) -> UInt8[np.ndarray, "height width channels"] | None:
    """Decodes a crop of a JPEG file, or returns None if Pillow must do it.

    Args:
      image: image file of any format.
      draw_crop: returns the crop for an image of a (width, height).
      cropper: the compiled functions.
    """
    opened = image.plain_jpeg()
    if opened is None:
        return None
    channels = len(opened.getbands())
    pixels = cropper.crop(image.data, opened.size, draw_crop(opened.size), channels)
    if pixels is None or channels == image.channels:
        return pixels
    return np.repeat(pixels, image.channels, axis=2)


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
