"""PyTorch's DataLoader on a folder of JPEG files, for benchmarks.streaming.

Its fastest settings are used: `torchvision.transforms.v2` on uint8 images, persistent workers, and
an endless sampler, so that no epoch ends with idle workers. Batches are uint8, as in flaxres.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

PREFETCHED_BATCHES = 4  # batches that each worker decodes in advance


def open_with_torchvision(path: Path) -> torch.Tensor:
    """Decodes a file by `torchvision.io.decode_jpeg` to uint8 (3, height, width)."""
    return decode_jpeg(read_file(str(path)), mode=ImageReadMode.RGB)


def open_with_pillow(path: Path) -> Image.Image:
    """Decodes a file by Pillow."""
    return Image.open(path).convert("RGB")


DECODERS: dict[str, Callable[[Path], torch.Tensor | Image.Image]] = {
    "decode-jpeg": open_with_torchvision,
    "pillow": open_with_pillow,
}


class CropDataset(Dataset[torch.Tensor]):
    """Random resized crops of the files in a folder, uint8 (3, size, size), and labels."""

    def __init__(self, split: Path, decoder: str, size: int):
        """Lists the files of `split`/CLASS/*.jpg.

        Args:
          split: directory of the split.
          decoder: one of `DECODERS`.
          size: height and width of the crops, in pixels.
        """
        self._files = sorted(split.glob("*/*.jpg"))
        classes = sorted({file.parent.name for file in self._files})
        self._labels = [classes.index(file.parent.name) for file in self._files]
        self._open = DECODERS[decoder]
        steps = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
        self._transform = v2.Compose([*steps, v2.PILToTensor()] if decoder == "pillow" else steps)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Returns a new crop of image `index` and its label."""
        return self._transform(self._open(self._files[index])), self._labels[index]


class EndlessSampler(Sampler[int]):
    """Random permutations of the images, one after another."""

    def __init__(self, size: int):
        """Samples from `size` images."""
        self._size = size

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(self._size).tolist()


class TorchLoader:
    """A running DataLoader."""

    def __init__(self, split: Path, decoder: str, size: int, batch_size: int, workers: int):
        """Starts the workers.

        Args:
          split: directory of the split, with a folder for each class.
          decoder: one of `DECODERS`.
          size: height and width of the crops, in pixels.
          batch_size: images in a batch.
          workers: number of worker processes.
        """
        dataset = CropDataset(split, decoder, size)
        self._batch_size = batch_size
        self._max_prefetched = workers * PREFETCHED_BATCHES
        self._iterator = iter(
            DataLoader(
                dataset,
                batch_size,
                sampler=EndlessSampler(len(dataset)),
                num_workers=workers,
                prefetch_factor=PREFETCHED_BATCHES,
                persistent_workers=True,
            )
        )
        next(self._iterator)

    def deliver(self, batches: int) -> float:
        """Returns the images per second that a consumer that does nothing receives."""
        for _ in range(self._max_prefetched):
            next(self._iterator)
        start = time.perf_counter()
        for _ in range(batches):
            next(self._iterator)
        return batches * self._batch_size / (time.perf_counter() - start)

    def close(self) -> None:
        """Ends the workers."""
        del self._iterator
