"""Evaluation of trained models on every image of a split, with test-time crops.

Threads load and decode the images. Crops are grouped by shape and evaluated in batches; incomplete
batches are padded, and every image counts once.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from jaxtyping import UInt8
from rich.progress import MofNCompleteColumn

from flaxres.cpu.processor import available_cores
from flaxres.data.decode import MAX_PIXELS, BrokenImageError, has_damaged_metadata
from flaxres.data.source import Source, check_label
from flaxres.errors import DatasetError
from flaxres.evaluation.test_crops import CropProtocol
from flaxres.evaluation.top_k import TopKAccumulator
from flaxres.inference.predictor import Predictor
from flaxres.parallel.multihost import is_main_process
from flaxres.terminal import make_progress_bar

MAX_THREADS = 8
PREFETCHED_IMAGES = 64  # fewer if their crops have more than `MAX_PIXELS` together
# Batches on the device while the next one is assembled. They may finish in any order.
MAX_BATCHES_IN_FLIGHT = 2


@dataclasses.dataclass(frozen=True, eq=False)
class ImageCrops:
    """Crops of one image.

    Attributes:
      index: index of the image.
      label: its label.
      crops: its crops.
      has_damaged_metadata: True if parts of its metadata were ignored.
    """

    index: int
    label: int
    crops: list[np.ndarray]
    has_damaged_metadata: bool


def evaluate_split(
    predictor: Predictor,
    protocol: CropProtocol,
    source: Source,
    title: str,
    skip_broken: bool = False,
    log: Callable[[str], None] = print,
) -> TopKAccumulator:
    """Evaluates models on every image of a split under a test-time crop protocol.

    Args:
      predictor: the models; must average over mirror images if `protocol` does.
      protocol: the test-time crops to take from each image.
      source: images and labels of the split.
      title: name of the split, shown in the progress bar and in messages.
      skip_broken: if True, images that cannot be decoded are skipped and counted.
      log: receives one line with the number of skipped images, and one with the number of images
        whose metadata was ignored.

    Returns:
      Top-1 and top-5 errors and the loss, summed over images.

    Raises:
      BrokenImageError: an image cannot be decoded.
      DatasetError: an image cannot be read, or none can be decoded.
    """
    accumulator = TopKAccumulator(protocol.num_crops)
    batcher = CropBatcher(predictor, accumulator, len(source) * protocol.num_crops)
    num_broken = num_damaged = 0
    bar = make_progress_bar(MofNCompleteColumn(), disable=not is_main_process())
    with bar as progress:
        task = progress.add_task(title, total=len(source))
        for image in load_crops(source, protocol, predictor.num_classes, skip_broken):
            if image is None:
                num_broken += 1
            else:
                num_damaged += image.has_damaged_metadata
                batcher.add(image.index, image.label, image.crops)
            progress.update(task, completed=accumulator.count + num_broken)
        batcher.finish()
        progress.update(task, completed=accumulator.count + num_broken)
    if num_broken == len(source):
        raise DatasetError(f"none of the {len(source):,} images of {title} can be decoded")
    if num_broken:
        log(f"{title}: skipped {num_broken:,} of {len(source):,} images that cannot be decoded")
    if num_damaged:
        log(
            f"{title}: {num_damaged:,} of {len(source):,} images were read without their metadata, "
            "which is damaged or too large"
        )
    return accumulator


class CropBatcher:
    """Groups crops by shape and evaluates each group when it fills a batch."""

    def __init__(self, predictor: Predictor, accumulator: TopKAccumulator, num_crops: int):
        """Creates a batcher without crops.

        Args:
          predictor: the models.
          accumulator: receives the log probabilities of each crop.
          num_crops: number of crops of all images together.
        """
        self._predictor = predictor
        self._accumulator = accumulator
        self._num_crops = num_crops
        self._waiting: dict[tuple[int, ...], list[tuple[int, int, np.ndarray]]] = {}
        self._in_flight: deque[tuple[jax.Array, list[tuple[int, int]]]] = deque()

    def add(self, index: int, label: int, crops: list[UInt8[np.ndarray, "_ _ channels"]]) -> None:
        """Adds the crops of an image.

        Args:
          index: index of the image.
          label: label of the image.
          crops: crops of any sizes.
        """
        for crop in crops:
            waiting = self._waiting.setdefault(crop.shape, [])
            waiting.append((index, label, crop))
            if len(waiting) == self._batch_size(crop.shape):
                self._launch(crop.shape)

    def finish(self) -> None:
        """Evaluates the incomplete batches and waits for all results."""
        for shape in list(self._waiting):
            self._launch(shape)
        self._collect(max_in_flight=0)

    def _batch_size(self, shape: tuple[int, ...]) -> int:
        height, width, _ = shape
        return self._predictor.batch_size((height, width), self._num_crops)

    def _launch(self, shape: tuple[int, ...]) -> None:
        waiting = self._waiting.pop(shape)
        crops = np.stack([crop for _, _, crop in waiting])
        result = self._predictor.launch(crops, self._batch_size(shape))
        self._in_flight.append((result, [(index, label) for index, label, _ in waiting]))
        self._collect(max_in_flight=MAX_BATCHES_IN_FLIGHT)

    def _collect(self, max_in_flight: int) -> None:
        while len(self._in_flight) > max_in_flight:
            result, images = self._in_flight.popleft()
            rows = np.asarray(jax.device_get(result))[: len(images)]
            for (index, label), row in zip(images, rows, strict=True):
                self._accumulator.add(index, label, row)


def load_crops(
    source: Source, protocol: CropProtocol, num_classes: int, skip_broken: bool
) -> Iterator[ImageCrops | None]:
    """Yields the crops of every image of a split, in order; threads load images in advance.

    Args:
      source: images and labels of the split.
      protocol: the test-time crops to take from each image.
      num_classes: number of classes; labels are checked against it.
      skip_broken: if True, yields None for an image that cannot be decoded.

    Raises:
      BrokenImageError: an image cannot be decoded, and `skip_broken` is False.
      DatasetError: an image cannot be read, or has an invalid label or a size that `protocol` does
        not accept.
    """

    def load(index: int) -> ImageCrops | None:
        try:
            image, label = source.load(index)
        except BrokenImageError:
            if not skip_broken:
                raise
            return None
        check_label(label, num_classes, source.describe(index))
        try:
            return ImageCrops(index, label, protocol.crops(image), has_damaged_metadata(image))
        except DatasetError as error:
            raise DatasetError(f"{source.describe(index)} {error}") from None

    executor = ThreadPoolExecutor(min(MAX_THREADS, len(available_cores()) + 1), "load_crops")
    try:
        loading: deque[Future[ImageCrops | None]] = deque()
        prefetched = min(PREFETCHED_IMAGES, MAX_PIXELS // protocol.max_pixels)
        for index in range(len(source)):
            loading.append(executor.submit(load, index))
            if len(loading) > prefetched:
                yield loading.popleft().result()
        while loading:
            yield loading.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)
