"""Reading of whole sources into memory."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Generator, Sequence

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from flaxres.data.dataset import Dataset, Split
from flaxres.data.decode import BrokenImageError, has_damaged_metadata
from flaxres.data.notices import print_notice
from flaxres.data.resize import resize
from flaxres.data.source import Source, Sources, check_image_size, check_label
from flaxres.errors import DatasetError

MAX_NAMES = 3  # images that a notice names

Example = tuple[int, Image.Image, int]  # index in the source, decoded image, label
ExampleReader = Callable[[Source], Generator[Example, None, None]]


def load_sources(
    sources: Sources,
    image_size: int,
    skip_broken: bool = False,
    eval_short_side: int = 0,
    read_examples: ExampleReader | None = None,
) -> Dataset:
    """Reads all splits into memory.

    Args:
      sources: splits of the data set.
      image_size: height and width to which images are resized, in pixels; 0 leaves them unchanged,
        and they must have one size.
      skip_broken: if True, images that cannot be read or decoded are skipped, and one line on
        standard error reports their number.
      eval_short_side: length to which the shorter side of test and validation images is resized
        before the center crop, in pixels (default, 0: `image_size`).
      read_examples: yields the examples of a source in order (default: loads one after another).

    Raises:
      DatasetError: an image cannot be read or decoded, differs in size from the first, or has a
        label that is not a class.
    """
    read_examples = read_examples or functools.partial(_load_one_by_one, skip_broken=skip_broken)
    read = functools.partial(
        _read_split, sources=sources, image_size=image_size, read_examples=read_examples
    )
    return Dataset(
        name=sources.name,
        train=read(sources.train),
        test=read(sources.test, short_side=eval_short_side),
        num_classes=sources.num_classes,
        validation=(
            None
            if sources.validation is None
            else read(sources.validation, short_side=eval_short_side)
        ),
    )


def _load_one_by_one(source: Source, skip_broken: bool) -> Generator[Example, None, None]:
    for index in range(len(source)):
        try:
            image, label = source.load(index)
        except BrokenImageError:
            if not skip_broken:
                raise
            continue
        yield index, image, label


def _read_split(
    source: Source,
    sources: Sources,
    image_size: int,
    read_examples: ExampleReader,
    short_side: int = 0,
) -> Split:
    """Reads one split; allocates its memory when the size of the first image is known."""
    size = len(source)
    images = np.empty((0, 0, 0, sources.channels), np.uint8)
    labels = np.empty(0, np.int32)
    count = 0
    skipped: list[int] = []
    without_metadata: list[int] = []
    with contextlib.closing(read_examples(source)) as examples:  # on an error too
        for index, image, label in examples:
            skipped += range(count + len(skipped), index)
            if has_damaged_metadata(image):
                without_metadata.append(index)
            if image_size:
                image = resize(image, image_size, short_side)
            if not count:
                images, labels = _allocate((size, image.height, image.width, sources.channels))
            check_label(label, sources.num_classes, source.describe(index))
            check_image_size((image.height, image.width), images.shape[1:3], source.describe(index))
            images[count] = np.asarray(image).reshape(images.shape[1:])
            labels[count] = label
            count += 1
    skipped += range(count + len(skipped), size)
    if not count:
        raise DatasetError(f"none of the {size:,} images can be decoded{_names(source, skipped)}")
    if skipped:
        print_notice(
            f"Skipped {len(skipped):,} of {size:,} images that cannot be decoded"
            f"{_names(source, skipped)}"
        )
    if without_metadata:
        print_notice(
            f"{len(without_metadata):,} of {size:,} images were read without their metadata, which "
            f"is damaged or too large{_names(source, without_metadata)}"
        )
    return Split(images[:count], labels[:count])


def _allocate(
    shape: tuple[int, int, int, int],
) -> tuple[UInt8[np.ndarray, "n height width channels"], Int32[np.ndarray, " n"]]:
    """Allocates memory for images and labels."""
    try:
        return np.empty(shape, np.uint8), np.empty(shape[0], np.int32)
    except MemoryError:
        count, height, width, _ = shape
        raise DatasetError(
            f"{count:,} images of {height} x {width} pixels need {math.prod(shape) / 2**30:,.0f} "
            "GiB of memory; choose --config.dataset.placement=stream or a smaller "
            "--config.dataset.image_size"
        ) from None


def _names(source: Source, indices: Sequence[int]) -> str:
    """Returns the names of the first images in parentheses."""
    names = ", ".join(source.describe(index) for index in indices[:MAX_NAMES])
    return f" ({names}{', ...' if len(indices) > MAX_NAMES else ''})"
