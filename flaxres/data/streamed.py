"""Streamed data sets: images are decoded on demand instead of being kept in memory."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float32
from ml_collections import ConfigDict

from flaxres.cpu.processor import available_cores
from flaxres.data.crops import Cropper
from flaxres.data.dataset import mean_from_sum
from flaxres.data.decode import BrokenImageError
from flaxres.data.decode_workers import DecodeStream
from flaxres.data.jpeg import find_library
from flaxres.data.options import crops_on_host
from flaxres.data.sampler import EpochSampler
from flaxres.data.source import Source, Sources
from flaxres.data.stream_schedule import DecodeTask, split_into_tasks
from flaxres.data.task_decoder import Decoder
from flaxres.errors import ConfigError, DatasetError

# Distinguishes the random choice of the images for the mean from other random numbers.
MEAN_STREAM = 6
MAX_SIZE_ATTEMPTS = 100  # images that are tried until one can be decoded, to find the image size


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedDataset:
    """A data set whose images are decoded on demand, the counterpart of `Dataset` in memory.

    Attributes:
      sources: the splits.
      image_shape: (height, width, channels) of the model's input.
      config: the experiment.
      mean: mean image, float32 (height, width, channels), in 0..1; None until it is computed.
    """

    sources: Sources
    image_shape: tuple[int, int, int]
    config: ConfigDict
    mean: np.ndarray | None = None

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.sources.name

    @property
    def train(self) -> Source:
        """The training split."""
        return self.sources.train

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.sources.num_classes

    def evaluation_splits(self) -> dict[str, Source]:
        """Returns the splits that are evaluated during training, by name."""
        splits = {"test": self.sources.test, "validation": self.sources.validation}
        return {name: split for name, split in splits.items() if split is not None}

    def decoder(self, cropper: Cropper | None = None) -> Decoder:
        """Returns a decoder of all splits.

        Args:
          cropper: crops of the images (default: those of the experiment).

        Raises:
          DatasetError: dataset.decode is 'scaled', and the compiled functions cannot be used.
        """
        config, jpeg_library = self.config, find_library()
        if config.dataset.decode == "scaled" and jpeg_library is None:
            raise DatasetError(
                "dataset.decode='scaled' needs the compiled decoder, which is not available; "
                "install a C++ compiler or set --config.dataset.decode=exact"
            )
        return Decoder(
            sources={"train": self.train} | self.evaluation_splits(),
            sampler=EpochSampler(len(self.train), config.batch_size, config.seed),
            cropper=cropper or Cropper.from_config(config),
            image_shape=self.image_shape,
            num_classes=self.num_classes,
            skip_broken=config.dataset.broken_images == "skip",
            jpeg_library=jpeg_library,
        )

    def mean_image(self) -> Float32[np.ndarray, "height width channels"]:
        """Returns the mean image, in 0..1: `mean`, or computed from training images.

        The mean is taken over `config.dataset.mean_images` training images, chosen at random but
        independently of the seed, or over all if there are no more. If training crops at random, it
        is the mean of the center crops of the evaluation, otherwise of the images for training.
        A data set that fits into memory thus has the same mean as in memory.

        Raises:
          DatasetError: an image cannot be read or decoded, or none can be decoded.
        """
        if self.mean is not None:
            return self.mean
        config, size = self.config, len(self.train)
        rows = np.arange(size)
        if config.dataset.mean_images < size:
            rng = np.random.default_rng((MEAN_STREAM, size))
            rows = np.sort(rng.choice(size, config.dataset.mean_images, replace=False))
        cropper = Cropper.from_config(config)
        if not crops_on_host(config):
            cropper = dataclasses.replace(cropper, eval_short_side=0)
        tasks = [DecodeTask("train", False, numbers) for numbers in split_into_tasks(rows)]
        # Threads, because worker processes take seconds to start.
        stream = DecodeStream(
            tasks, self.decoder(cropper), workers=0, ahead=2 * len(available_cores())
        )
        total, count = np.zeros(self.image_shape, np.uint64), 0
        try:
            for decoded in stream:
                total += decoded.images.sum(axis=0, dtype=np.uint64)  # invalid images are zeros
                count += int(decoded.valid.sum())
        finally:
            stream.close()
        if not count:
            raise DatasetError(f"none of {len(rows):,} training images can be decoded")
        return mean_from_sum(total, count, config.dataset.mean)

    def with_mean(self, mean: Float32[np.ndarray, "height width channels"]) -> StreamedDataset:
        """Returns the same data set with a mean image that was computed before."""
        return dataclasses.replace(self, mean=mean)


def open_streamed(config: ConfigDict, sources: Sources) -> StreamedDataset | None:
    """Opens the data set of an experiment as a stream, or returns None if it is kept on the device.

    Raises:
      ConfigError: the data set would be streamed, and num_replicas is above 1. Replicas share the
        images on the device.
      DatasetError: none of the first images can be decoded.
    """
    dataset = config.dataset
    if dataset.placement == "device":
        return None
    shape = first_image_shape(sources, dataset.image_size)
    gib = len(sources.train) * int(np.prod(shape)) / 2**30
    if dataset.placement == "auto" and gib <= dataset.device_gib and not crops_on_host(config):
        return None
    if config.num_replicas > 1:
        raise ConfigError(
            f"num_replicas above 1 needs a data set on the device, but the {gib:.1f} GiB of "
            f"{sources.name} are streamed; choose a larger dataset.device_gib or placement=device"
        )
    return StreamedDataset(sources, shape, config)


def first_image_shape(sources: Sources, image_size: int) -> tuple[int, int, int]:
    """Returns the (height, width, channels) of the images of a data set.

    Args:
      sources: splits of the data set.
      image_size: height and width to which images are resized; 0 for the size of the first image
        that can be decoded.

    Raises:
      DatasetError: none of the first images can be decoded.
    """
    if image_size:
        return image_size, image_size, sources.channels
    source = sources.train
    attempts = min(MAX_SIZE_ATTEMPTS, len(source))
    for index in range(attempts):
        try:
            image, _ = source.load(index)
        except BrokenImageError:
            continue
        return image.height, image.width, sources.channels
    raise DatasetError(f"none of the first {attempts} images of {sources.name} can be decoded")
