"""Data sets whose images are decoded when they are needed, beside those in memory."""

from __future__ import annotations

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from flaxres.cpu.processor import available_cores
from flaxres.data.crops import Cropper
from flaxres.data.dataset import mean_from_sum
from flaxres.data.decode import BrokenImageError
from flaxres.data.decode_workers import Decoder, DecodeStream
from flaxres.data.options import crops_on_host
from flaxres.data.sampler import EpochSampler
from flaxres.data.source import Source, Sources
from flaxres.data.stream_schedule import DecodeTask, split_into_tasks
from flaxres.errors import ConfigError, DatasetError

MEAN_STREAM = 6  # sets the choice of the images of the mean apart from other random numbers
FIRST = 100  # images that are tried, to know their size


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedDataset:
    """The splits of a data set as sources: what `flaxres.data.Dataset` is for arrays.

    Attributes:
      sources: the splits.
      image_shape: (height, width, channels) of what the net gets.
      config: the experiment.
      mean: float32 (height, width, channels), in 0..1; None: not computed yet.
    """

    sources: Sources
    image_shape: tuple[int, int, int]
    config: ConfigDict
    mean: np.ndarray | None = None

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.sources.name

    @property
    def train(self) -> Source:
        """The training split."""
        return self.sources.train

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return self.sources.num_classes

    def evaluation_splits(self) -> dict[str, Source]:
        """The splits that are evaluated during training."""
        splits = {"test": self.sources.test, "validation": self.sources.validation}
        return {name: split for name, split in splits.items() if split is not None}

    def decoder(self, crops: Cropper | None = None) -> Decoder:
        """What decodes parts of the splits; with other crops than the experiment's, if given."""
        config = self.config
        return Decoder(
            sources={"train": self.train} | self.evaluation_splits(),
            order=EpochSampler(len(self.train), config.batch_size, config.seed),
            crops=crops or Cropper.from_config(config),
            image_shape=self.image_shape,
            num_classes=self.num_classes,
            skip_broken=config.dataset.broken_images == "skip",
        )

    def mean_image(self) -> np.ndarray:
        """The mean that is subtracted: `mean`, or computed now.

        Of `config.dataset.mean_images` images of the training split that are chosen at random, but
        always the same; of all of them if there are no more. Of what evaluation takes of them where
        training crops at random, else of what training takes: so a set that fits into memory has
        the mean that it has there.

        Raises:
          DatasetError: see `flaxres.data.decode_workers.Decoder`.
        """
        if self.mean is not None:
            return self.mean
        config, size = self.config, len(self.train)
        rows = np.arange(size)
        if config.dataset.mean_images < size:
            rng = np.random.default_rng((MEAN_STREAM, size))
            rows = np.sort(rng.choice(size, config.dataset.mean_images, replace=False))
        crops = Cropper.from_config(config)
        if not crops_on_host(config):
            crops = dataclasses.replace(crops, eval_short_side=0)
        parts = [DecodeTask("train", False, part) for part in split_into_tasks(rows)]
        # By threads: processes take seconds to start.
        stream = DecodeStream(
            parts, self.decoder(crops), workers=0, ahead=2 * len(available_cores())
        )
        total, count = np.zeros(self.image_shape, np.uint64), 0
        try:
            for pixels in stream:
                # Those that are not valid are zeros.
                total += pixels.images.sum(axis=0, dtype=np.uint64)
                count += int(pixels.valid.sum())
        finally:
            stream.close()
        if not count:
            raise DatasetError(f"none of {len(rows):,} training images can be decoded")
        return mean_from_sum(total, count, config.dataset.mean)

    def with_mean(self, mean: np.ndarray) -> StreamedDataset:
        """The same with a mean that has been computed."""
        return dataclasses.replace(self, mean=mean)


def open_streamed(config: ConfigDict, sources: Sources) -> StreamedDataset | None:
    """The data set of an experiment as a stream, or None where its images go to the device.

    Raises:
      ConfigError: there are several replicas, which share the images of the device.
      DatasetError: no image can be decoded.
    """
    data = config.dataset
    if data.placement == "device":
        return None
    shape = image_shape(sources, data.image_size)
    gib = len(sources.train) * int(np.prod(shape)) / 2**30
    if data.placement == "auto" and gib <= data.device_gib and not crops_on_host(config):
        return None
    if config.num_replicas > 1:
        raise ConfigError(
            f"num_replicas above 1 is for data sets on the device, but the {gib:.1f} GiB of "
            f"{sources.name} are streamed; choose a larger dataset.device_gib or placement=device"
        )
    return StreamedDataset(sources, shape, config)


def image_shape(sources: Sources, image_size: int) -> tuple[int, int, int]:
    """(height, width, channels) of the images: `image_size`, or the first one's as it is.

    Raises:
      DatasetError: that one cannot be decoded.
    """
    if image_size:
        return image_size, image_size, sources.channels
    source = sources.train
    for index in range(min(FIRST, len(source))):
        try:
            image, _ = source.load(index)
        except BrokenImageError:
            continue
        return image.height, image.width, sources.channels
    raise DatasetError(
        f"none of the first {min(FIRST, len(source))} images of {sources.name} can be decoded"
    )
