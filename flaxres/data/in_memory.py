"""Whole sources as arrays in memory."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

import numpy as np
from PIL import Image

from flaxres.data.dataset import Dataset, Split
from flaxres.data.decode import BrokenImageError
from flaxres.data.resize import resize
from flaxres.data.source import Source, Sources, check_label
from flaxres.errors import DatasetError


def load_sources(
    sources: Sources, image_size: int, skip_broken: bool = False, eval_short_side: int = 0
) -> Dataset:
    """Reads all splits.

    Args:
      sources: of the data set.
      image_size: see `flaxres.data.resize`; 0 for images as they are, all of one size.
      skip_broken: leave images out that cannot be decoded, and say how many there were.
      eval_short_side: to which images that are not for training are scaled, before their middle is
        taken; 0 for `image_size`.

    Raises:
      DatasetError: an image that cannot be decoded, is of another size than the first, or has a
        label that there is not.
    """
    splits = {"train": sources.train, "test": sources.test, "validation": sources.validation}
    found = {}
    for name, split in splits.items():
        short = 0 if name == "train" else eval_short_side
        view = functools.partial(resize, size=image_size, short=short) if image_size else None
        found[name] = split and _read(split, sources, view, skip_broken)
    return Dataset(name=sources.name, num_classes=sources.num_classes, **found)


def _read(
    source: Source,
    sources: Sources,
    view: Callable[[Image.Image], Image.Image] | None,
    skip_broken: bool,
) -> Split:
    images: list[np.ndarray] = []
    labels: list[int] = []
    broken = 0
    for index in range(len(source)):
        try:
            image, label = source.load(index)
        except BrokenImageError:
            if not skip_broken:
                raise
            broken += 1
            continue
        image = view(image) if view else image
        images.append(np.asarray(image).reshape(image.height, image.width, sources.channels))
        labels.append(label)
        check_label(label, sources.num_classes, source.describe(index))
        if images[-1].shape != images[0].shape:
            (height, width), (first, second) = (i.shape[:2] for i in (images[-1], images[0]))
            raise DatasetError(
                f"{source.describe(index)} has {height} x {width} pixels and not the {first} x "
                f"{second} of the first image; choose one size for all, e.g. "
                "--config.dataset.image_size=224"
            )
    if not images:
        raise DatasetError(f"none of the {len(source)} images can be decoded")
    if broken:
        print(f"{broken:,} of {len(source):,} images cannot be decoded; left out", file=sys.stderr)
    return Split(np.stack(images), np.array(labels, np.int32))
