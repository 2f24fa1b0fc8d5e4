"""Evaluation of trained nets on every image of a split, by a protocol of `flaxres.evaluation.test_crops`.

Images are read and decoded by threads, sorted by the shapes of their views, and evaluated in
batches that are filled up; each image counts once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from rich.progress import MofNCompleteColumn

from flaxres.cpu.processor import available_cores
from flaxres.data.decode import BrokenImageError
from flaxres.data.source import Source, check_label
from flaxres.errors import DatasetError
from flaxres.evaluation.test_crops import Protocol
from flaxres.evaluation.top_k import TopKAccumulator
from flaxres.inference.predictor import Predictor
from flaxres.parallel.multihost import is_main_process
from flaxres.terminal import make_progress_bar

MAX_THREADS = 8
AHEAD = 64  # images that are read before they are asked for
# Batches on the device while the next is put together. Their order does not matter.
IN_FLIGHT = 2

# Number of the image, its label, and its views; None for one that cannot be decoded.
Read = tuple[int, int, list[np.ndarray]] | None


def evaluate_split(
    predictor: Predictor,
    protocol: Protocol,
    source: Source,
    title: str,
    skip_broken: bool = False,
    log: Callable[[str], None] = print,
) -> TopKAccumulator:
    """Shows every image of a split to the nets, once by each view.

    Args:
      predictor: of the nets; mirrors if the protocol does.
      protocol: says what of an image is shown.
      source: the split.
      title: of the progress bar, and of the split in messages.
      skip_broken: leave images out that cannot be decoded.
      say: told in one line how many these were.

    Raises:
      BrokenImageError: an image cannot be decoded.
      DatasetError: it cannot be read, or none can be decoded.
    """
    scores = TopKAccumulator(protocol.num_crops)
    batches = Batches(predictor, scores, len(source) * protocol.num_crops)
    broken = 0
    bar = make_progress_bar(MofNCompleteColumn(), disable=not is_main_process())
    with bar as progress:
        task = progress.add_task(title, total=len(source))
        for image in read(source, protocol, predictor.num_classes, skip_broken):
            if image is None:
                broken += 1
            else:
                batches.add(*image)
            progress.update(task, completed=scores.count + broken)
        batches.finish()
        progress.update(task, completed=scores.count + broken)
    if broken == len(source):
        raise DatasetError(f"none of the {len(source):,} images of {title} can be decoded")
    if broken:
        log(f"{broken:,} of {len(source):,} images of {title} cannot be decoded; left out")
    return scores


class Batches:
    """Views of images, gathered by their shapes and evaluated when a batch is full."""

    def __init__(self, predictor: Predictor, scores: TopKAccumulator, count: int):
        """For `count` views in all; what comes out is added to `scores`."""
        self._predictor = predictor
        self._scores = scores
        self._count = count
        self._waiting: dict[tuple[int, ...], list[tuple[int, int, np.ndarray]]] = {}
        self._launched: deque[tuple[jax.Array, list[tuple[int, int]]]] = deque()

    def add(self, index: int, label: int, views: list[np.ndarray]) -> None:
        """Takes the views of image number `index`."""
        for view in views:
            waiting = self._waiting.setdefault(view.shape, [])
            waiting.append((index, label, view))
            if len(waiting) == self._batch_size(view.shape):
                self._launch(view.shape)

    def finish(self) -> None:
        """Evaluates what has not filled a batch, and waits for all."""
        for shape in list(self._waiting):
            self._launch(shape)
        self._collect(keep=0)

    def _batch_size(self, shape: tuple[int, ...]) -> int:
        return self._predictor.batch_size(shape[:2], self._count)

    def _launch(self, shape: tuple[int, ...]) -> None:
        images = self._waiting.pop(shape)
        views = np.stack([view for _, _, view in images])
        result = self._predictor.launch(views, self._batch_size(shape))
        self._launched.append((result, [(index, label) for index, label, _ in images]))
        self._collect(keep=IN_FLIGHT)

    def _collect(self, keep: int) -> None:
        while len(self._launched) > keep:
            result, images = self._launched.popleft()
            rows = np.asarray(jax.device_get(result))[: len(images)]
            for (index, label), row in zip(images, rows, strict=True):
                self._scores.add(index, label, row)


def read(source: Source, protocol: Protocol, num_classes: int, skip_broken: bool) -> Iterator[Read]:
    """The images of a split in their order, with their views; threads read ahead.

    Raises:
      BrokenImageError: an image cannot be decoded, unless `skip_broken`.
      DatasetError: it cannot be read, has a label that there is not, or not the size that the
        protocol wants.
    """

    def load(index: int) -> Read:
        try:
            image, label = source.load(index)
        except BrokenImageError:
            if not skip_broken:
                raise
            return None
        check_label(label, num_classes, source.describe(index))
        try:
            return index, label, protocol.views(image)
        except DatasetError as error:
            raise DatasetError(f"{source.describe(index)} {error}") from None

    pool = ThreadPoolExecutor(min(MAX_THREADS, len(available_cores()) + 1), "read")
    try:
        reading: deque[Future[Read]] = deque()
        for index in range(len(source)):
            reading.append(pool.submit(load, index))
            if len(reading) > AHEAD:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
