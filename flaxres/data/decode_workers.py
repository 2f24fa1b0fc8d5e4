"""Images decoded ahead of when they are needed, by threads or by processes of Grain.

What comes out is the same, in the same order, for any number of workers.
"""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from flaxres.cpu.processor import available_cores
from flaxres.data.crops import Cropper
from flaxres.data.decode import BrokenImageError
from flaxres.data.sampler import EpochSampler
from flaxres.data.shared_memory import DecodedImages, SharedBuffers
from flaxres.data.source import Source, check_label
from flaxres.data.stream_schedule import MAX_TASK_SIZE, DecodeTask
from flaxres.errors import DatasetError, UserError

MAX_WORKERS = 16  # where the config leaves their number open
# Python's tracker of shared memory, a process of its own, frees what a killed worker leaves behind;
# that worker's end is said in other words.
QUIET_TRACKER = "ignore:resource_tracker:UserWarning"


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Reads and decodes parts; can be sent to another process.

    Attributes:
      sources: by the name of the split.
      order: of the training images.
      crops: what is taken of an image.
      image_shape: (height, width, channels) of the result.
      num_classes: labels must be below it.
      skip_broken: take the next readable image in the place of one that cannot be decoded.
    """

    sources: Mapping[str, Source]
    order: EpochSampler
    crops: Cropper
    image_shape: tuple[int, int, int]
    num_classes: int
    skip_broken: bool

    def __call__(self, part: DecodeTask, out: DecodedImages) -> None:
        """Fills `out`, of the size of the part; what is not valid is zeros.

        Raises:
          DatasetError: an image cannot be read or decoded, has another size, or a label that there
            is not.
        """
        out.broken[0] = 0
        for i, number in enumerate(map(int, part.numbers)):
            image, label, valid = 0, 0, False
            if number >= 0:
                found, missed = (self._training if part.training else self._evaluation)(
                    part, number
                )
                out.broken[0] += missed
                if found is not None:
                    image, label, valid = *found, True
            out.images[i], out.labels[i], out.valid[i] = image, label, valid

    def _training(self, part: DecodeTask, position: int) -> tuple[tuple[np.ndarray, int], int]:
        """The image at a position, or at the next whose image can be decoded; how many cannot."""
        source = self.sources[part.split]
        for missed in range(len(source)):
            index = int(self.order.images(position + missed, position + missed + 1)[0])
            try:
                image, label = source.load(index)
            except BrokenImageError:
                if not self.skip_broken:
                    raise
                continue
            image = self.crops.train_crop(image, position + missed)
            return self._checked(source, index, image, label), missed
        raise DatasetError(f"none of the {len(source):,} training images can be decoded")

    def _evaluation(
        self, part: DecodeTask, index: int
    ) -> tuple[tuple[np.ndarray, int] | None, int]:
        """An image of an evaluation; None and 1 if it cannot be decoded."""
        source = self.sources[part.split]
        try:
            image, label = source.load(index)
        except BrokenImageError:
            if not self.skip_broken:
                raise
            return None, 1
        return self._checked(source, index, self.crops.eval_crop(image), label), 0

    def _checked(
        self, source: Source, index: int, image: Image.Image, label: int
    ) -> tuple[np.ndarray, int]:
        height, width, channels = self.image_shape
        if (image.height, image.width) != (height, width):
            raise DatasetError(
                f"{source.describe(index)} has {image.height} x {image.width} pixels and not the "
                f"{height} x {width} of the first image; choose one size for all, e.g. "
                "--config.dataset.image_size=224"
            )
        check_label(label, self.num_classes, source.describe(index))
        return np.asarray(image).reshape(height, width, channels), label


def num_workers(wanted: int) -> int:
    """Processes that decode: as many as wanted, or one on each core that this process may use."""
    return min(len(available_cores()), MAX_WORKERS) if wanted < 0 else wanted


class DecodeStream:
    """Decoded parts, one after another, decoded ahead; close it when it is not needed any more.

    Attributes:
      most_ahead: parts that it holds when nobody asks for any.
    """

    def __init__(
        self,
        parts: Sequence[DecodeTask],
        decoder: Decoder,
        workers: int,
        ahead: int,
        start: int = 0,
        max_task_size: int = MAX_TASK_SIZE,
    ):
        """Starts the workers.

        Args:
          parts: what to decode; can be sent to another process.
          decoder: how.
          workers: processes; 0 for threads of this one.
          ahead: parts that are decoded before they are asked for, about; at least four a worker.
          start: number of the first part to decode.
          max_task_size: images of the largest part.

        Raises:
          DatasetError: there is too little shared memory for the processes.
        """
        import grain  # with JAX, so it takes seconds, and only streams need it
        from absl import flags

        profiling = "grain_enable_multiprocess_worker_profiling"
        if not flags.FLAGS.is_parsed() and profiling in flags.FLAGS:
            # Grain asks for this flag, which programs without absl's command line never parse.
            flags.FLAGS[profiling].present = 1
        self._parts, self._workers, self._image_shape = parts, workers, decoder.image_shape
        self._next = start
        self._slots: SharedBuffers | None = None
        if workers:
            # Of a buffer of n, Grain fills two, one on each side of the process, and holds two
            # parts more: counted in shared memory, with version 0.2.18.
            buffer = max(1, round((ahead / workers - 2) / 2))
            self.max_ahead = workers * (2 * buffer + 2)
            reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
            self._slots = SharedBuffers(
                self.max_ahead + workers, max_task_size, decoder.image_shape, start
            )
        else:
            self.max_ahead = ahead + len(available_cores())
            reading = grain.ReadOptions(
                num_threads=len(available_cores()), prefetch_buffer_size=self.max_ahead
            )
        steps = grain.MapDataset.range(start, len(parts)).map(_Decode(parts, decoder, self._slots))
        steps = steps.to_iter_dataset(reading)
        if workers:
            if QUIET_TRACKER not in sys.warnoptions:
                sys.warnoptions.append(QUIET_TRACKER)  # processes are started with these
            options = grain.MultiprocessingOptions(
                num_workers=workers, per_worker_buffer_size=buffer
            )
            steps = steps.mp_prefetch(options, worker_init_fn=_begin_worker)
        self._iterator = iter(steps)

    def read_into(self, out: DecodedImages) -> None:
        """Copies the next part, of as many images as `out` has.

        Raises:
          DatasetError: it cannot be decoded, or a worker has ended before its time.
          StopIteration: there is no next part.
        """
        if self._iterator is None:
            raise StopIteration
        try:
            found = next(self._iterator)
        except UserError as error:
            # Without Grain's traceback and notes.
            raise type(error)(*error.args) from None
        except RuntimeError as error:
            if not (code := re.search(r"exit code (-?\d+)", str(error))):
                raise
            raise _lost(int(code[1]), self._workers) from None
        if self._slots is None:
            out.copy_from(found)
        else:
            self._slots.take(self._next, out)
        self._next += 1

    def __iter__(self) -> DecodeStream:
        return self

    def __next__(self) -> DecodedImages:
        """The next part in memory of its own; raises what `take` raises."""
        if self._next >= len(self._parts):
            raise StopIteration
        out = DecodedImages.empty(len(self._parts[self._next]), self._image_shape)
        self.read_into(out)
        return out

    def close(self) -> None:
        """Ends the workers; there is no next part then."""
        if self._iterator is None:
            return
        if self._slots is not None:
            self._slots.release()
        self._iterator.close()
        # Grain's iterators are in cycles of references.
        self._iterator = None
        gc.collect()
        if self._slots is not None:
            self._slots.close()


@dataclasses.dataclass(frozen=True)
class _Decode:
    """Decodes parts by their numbers: into slots, from which they are taken, or new memory."""

    parts: Sequence[DecodeTask]
    decoder: Decoder
    slots: SharedBuffers | None

    def __call__(self, number: int) -> DecodedImages | int:
        number = int(number)
        part = self.parts[number]
        if self.slots is not None:
            self.decoder(part, self.slots.slot(number, len(part)))
            return number  # Grain leaves out what is None
        pixels = DecodedImages.empty(len(part), self.decoder.image_shape)
        self.decoder(part, pixels)
        return pixels


def _begin_worker(number: int, count: int) -> None:
    """Has a worker end with its parent and with nothing else."""
    # These go to all processes of a terminal or a job; the run needs images until it has saved.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _lost(code: int, workers: int) -> DatasetError:
    """What to say of a worker that has ended."""
    how = f"with exit code {code}"
    if code < 0:
        how = f"by signal {-code}"
        names = {int(s): s.name for s in signal.Signals}
        how += f" ({names[-code]})" if -code in names else ""
    return DatasetError(
        f"one of {workers} processes that decode images was ended {how}; where memory or /dev/shm "
        "is short, choose fewer with --config.dataset.workers (0: threads), or a smaller "
        "--config.dataset.prefetch; the same command goes on from the last checkpoint"
    )
