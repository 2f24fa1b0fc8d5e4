"""Data sets, augmentation and decoding: from image files to batches of uint8 arrays.

Imported by `flaxres.config` and the packages above it; imports only `flaxres.cpu`,
`flaxres.errors`, `flaxres.field_checks` and `flaxres.terminal`.
"""

from __future__ import annotations

from flaxres.data.dataset import Dataset, Split
from flaxres.data.datasets import (
    dataset_shape,
    load_dataset,
    num_train_images,
    open_dataset,
    open_sources,
)
from flaxres.data.source import Sources
from flaxres.data.streamed import StreamedDataset

__all__ = [
    "Dataset",
    "Sources",
    "Split",
    "StreamedDataset",
    "dataset_shape",
    "load_dataset",
    "num_train_images",
    "open_dataset",
    "open_sources",
]
