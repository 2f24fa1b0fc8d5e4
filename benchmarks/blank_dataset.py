"""Data sets of black images, for programs that need only the shapes of a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from flaxres.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Int32
    from PIL import Image

    from flaxres.data import Dataset, StreamedDataset

# Image size, channels, classes and training images, so that programs compile without the data.
# Source: tensorflow.org/datasets/catalog.
DATA_SETS = {
    "cifar10": (32, 3, 10, 50_000),
    "cifar100": (32, 3, 100, 50_000),
    "digits": (8, 1, 10, 1_437),
    "imagenet2012": (224, 3, 1_000, 1_281_167),
    "imagenette": (224, 3, 10, 9_469),
}


class BlankImages:
    """Black images in place of a streamed data set; only their shapes matter."""

    def __init__(self, num_images: int, size: int):
        """Describes a split of `num_images` images of `size` x `size` pixels."""
        self._num_images, self._size = num_images, size

    def __len__(self) -> int:
        return self._num_images

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Returns a black image and its label, 0."""
        from PIL import Image

        return Image.new("RGB", (self._size, self._size)), 0

    read = load  # black images are in memory, so there is nothing to decode later

    def describe(self, index: int) -> str:
        """Returns the name of an image."""
        return f"blank image {index}"

    def labels(self) -> Int32[np.ndarray, " images"]:
        """Returns all labels."""
        return np.zeros(self._num_images, np.int32)


def blank_dataset(config: ConfigDict, num_images: int | None = None) -> Dataset | StreamedDataset:
    """Returns a data set with the shapes of the config's data set.

    It is streamed if the real data set would be.

    Args:
      config: config of the run.
      num_images: images of the training split, or None for those of the data set.

    Raises:
      ConfigError: the shapes of the data set are not known.
    """
    from flaxres.data import Dataset, Split
    from flaxres.data.source import Sources
    from flaxres.data.streamed import open_streamed

    if config.dataset.name not in DATA_SETS:
        raise ConfigError(
            f"config.dataset.name must be one of {', '.join(DATA_SETS)}, got "
            f"{config.dataset.name!r}. For other images, set --config.dataset.name=imagenet2012 "
            "and --config.dataset.image_size."
        )
    size, channels, num_classes, default = DATA_SETS[config.dataset.name]
    size, num_images = config.dataset.image_size or size, num_images or default
    source, classes = BlankImages(num_images, size), tuple(map(str, range(num_classes)))
    sources = Sources(config.dataset.name, source, source, classes, channels)
    if streamed := open_streamed(config, sources):
        return streamed
    # Broadcasting one element takes no memory.
    images = np.broadcast_to(np.uint8(0), (num_images, size, size, channels))
    split = Split(images, np.broadcast_to(np.int32(0), num_images))
    return Dataset(config.dataset.name, split, split, num_classes)
