"""What a net is shown of an image when it is tested: the whole of it, crops, mirror images, scales.

split: the image as the splits have it: `dataset.image_size` and `dataset.eval_short_side`.
center: the short side scaled, the crop in the middle.
10-crop: the central square of the image that was scaled so, its four corners, its center, and their
mirror images: Krizhevsky 2012, "ImageNet Classification with Deep Convolutional Neural Networks",
sections 2 and 4.1; He15 (arXiv 1512.03385), section 4.1.
multi-scale: the whole image at each of several short sides, and its mirror images, by a net that
ends in a mean over space: He15, section 3.4.

So that few programs are compiled, the ends of the long side of a whole image are cut off: what is
left is 7/7, 8/7, ... or 14/7 of the short side (at 224, multiples of 32 pixels). That makes at most
15 shapes a scale; a square image loses nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from flaxres.data.resize import image_to_array, resize
from flaxres.errors import ConfigError, DatasetError

CROP_PROTOCOLS = ("split", "center", "10-crop", "multi-scale")
# Of the paper's nets: pixels of an image on each side, the short side that crops are taken of
# (Krizhevsky 2012, section 2), and the short sides of whole images (He15, section 3.4).
PAPER_SIZE = 224
PAPER_SHORT_SIDE = 256
PAPER_SCALES = (224, 256, 384, 480, 640)
PARTS = 7  # of a short side; the long side is longer by a number of them


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How an image is shown.

    Attributes:
      name: one of `CROP_PROTOCOLS`.
      size: height and width of the net's images.
      short_sides: that the image is scaled to; of 'split' none where the image is left as it is.
    """

    name: str
    size: tuple[int, int]
    short_sides: tuple[int, ...] = ()

    @property
    def mirror(self) -> bool:
        """Whether the mirror image of each view counts too."""
        return self.name in ("10-crop", "multi-scale")

    @property
    def num_crops(self) -> int:
        """Views of an image, without the mirror images."""
        return {"10-crop": 5, "multi-scale": len(self.short_sides)}.get(self.name, 1)

    def views(self, image: Image.Image) -> list[np.ndarray]:
        """The views of an image, without the mirror images.

        Returns:
          uint8 arrays (height, width, channels), of the net's size but for multi-scale.

        Raises:
          DatasetError: an image of a split that has another size than the net's.
        """
        if self.name == "split":
            if self.short_sides:
                image = resize(image, self.size[0], self.short_sides[0])
            pixels = image_to_array(image)
            if pixels.shape[:2] != self.size:
                raise DatasetError(
                    f"has {pixels.shape[0]} x {pixels.shape[1]} pixels and not the "
                    f"{self.size[0]} x {self.size[1]} of the net's images; choose another protocol"
                )
            return [pixels]
        if self.name == "multi-scale":
            return [image_to_array(whole(image, short_side)) for short_side in self.short_sides]
        square = image_to_array(resize(image, self.short_sides[0]))
        offsets = crop_offsets(square.shape[:2], self.size)
        offsets = offsets if self.name == "10-crop" else offsets[-1:]
        height, width = self.size
        return [square[top : top + height, left : left + width] for top, left in offsets]

    def extreme_shapes(self) -> list[tuple[int, int]]:
        """Height and width of the smallest and the longest views: a net that takes them takes all.

        That is all shapes but for those between, and those that lie on their side.
        """
        if self.name != "multi-scale":
            return [self.size]
        return [shape for s in self.short_sides for shape in ((s, s), (s, 2 * s))]

    def __str__(self) -> str:
        """In words, for a line before the results."""
        height, width = self.size
        sides = ", ".join(map(str, self.short_sides))
        return {
            "split": f"split: images of {height} x {width} pixels",
            "center": f"center: short side {sides}, crop of {height} x {width} pixels",
            "10-crop": f"10-crop: short side {sides}, five crops of {height} x {width} pixels and "
            "their mirror images",
            "multi-scale": f"multi-scale: whole images and their mirror images, short sides "
            f"{sides}; long sides cropped to 7/7, 8/7, ... or 14/7 of them",
        }[self.name]


def make_crop_protocol(
    name: str,
    size: tuple[int, int],
    short_side: int | None = None,
    scales: Sequence[int] = (),
    split_short_side: int = 0,
) -> Protocol:
    """The protocol of that name, with the paper's numbers in the ratio of the net's size to 224.

    Args:
      name: one of `CROP_PROTOCOLS`.
      size: height and width of the net's images.
      short_side: of center and 10-crop; None for 256/224 of the size.
      scales: short sides of multi-scale; () for {224, 256, 384, 480, 640}/224 of it.
      split_short_side: of split; 0 for images as they are.

    Raises:
      ConfigError: there is no such protocol, or the sizes are not for it.
    """
    if name not in CROP_PROTOCOLS:
        raise ConfigError(f"protocol must be one of {', '.join(CROP_PROTOCOLS)}, got {name!r}")
    crops = name in ("center", "10-crop")
    if short_side is not None and not crops:
        raise ConfigError(f"short_side is for the protocols center and 10-crop, got {name}")
    if scales and name != "multi-scale":
        raise ConfigError(f"scales are for the protocol multi-scale, got {name}")
    if name == "split":
        return Protocol(name, size, (split_short_side,) if split_short_side else ())
    ratio = max(size) / PAPER_SIZE
    if crops:
        short = round(PAPER_SHORT_SIDE * ratio) if short_side is None else short_side
        if short < max(size):
            raise ConfigError(
                f"short_side must be at least {max(size)}, the pixels of a crop, got {short}"
            )
        return Protocol(name, size, (short,))
    scales = tuple(scales) or tuple(round(scale * ratio) for scale in PAPER_SCALES)
    if min(scales) < 1 or len(set(scales)) < len(scales):
        given = ", ".join(map(str, scales))
        raise ConfigError(f"scales must be different numbers of pixels from 1 on, got {given}")
    return Protocol(name, size, scales)


def crop_offsets(shape: tuple[int, int], size: tuple[int, int]) -> list[tuple[int, int]]:
    """(top, left) of the crops of `size` from `shape`: upper left and right, lower, the center."""
    bottom, right = (length - crop for length, crop in zip(shape, size, strict=True))
    corners = [(top, left) for top in (0, bottom) for left in (0, right)]
    return [*corners, (bottom // 2, right // 2)]


def whole(image: Image.Image, short_side: int) -> Image.Image:
    """The image with its short side scaled, and the ends of its long side cut off: see the module.

    Bilinear, as `flaxres.data.resize`.
    """
    short = min(image.size)
    width, height = (max(short_side, round(side * short_side / short)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    lengths = [short_side + part * short_side // PARTS for part in range(PARTS + 1)]
    kept = [max(length for length in lengths if length <= side) for side in (width, height)]
    left, top = (width - kept[0]) // 2, (height - kept[1]) // 2
    return image.crop((left, top, left + kept[0], top + kept[1]))
