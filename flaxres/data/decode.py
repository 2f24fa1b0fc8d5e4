"""Decoding of single images: JPEG, PNG, GIF and BMP files.

Gray images become RGB or the reverse, and CMYK becomes RGB. Of 16-bit samples the upper eight bits
are kept. The EXIF orientation is applied. Transparent pixels are blended with black, except where
an alpha channel is requested. Of an animation the first frame is decoded.

An image whose metadata (EXIF, texts, color profile) is damaged or too large is decoded without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import threading
import warnings
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool
from PIL import ExifTags, Image, UnidentifiedImageError

from flaxres.data.image_metadata import count_scans, without_metadata
from flaxres.errors import DatasetError, one_line

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's mode for a number of channels
# The formats of tf.io.decode_image, which the records of a TFDS data set may have. Every further
# format is further code that a malicious file could attack.
FORMATS = ("JPEG", "PNG", "GIF", "BMP")
MAX_SIDE = 65_535  # height and width, in pixels: the limit of the JPEG and GIF formats
MAX_PIXELS = 2**28 // 3  # 256 MiB in RGB: Pillow's limit for an image that is no attack
# Each scan of a progressive JPEG goes over all pixels. Encoders write some ten; 500 is the limit in
# the tests of libjpeg-turbo.
MAX_SCANS = 500
ORIENTATIONS = {  # EXIF 2.32, section 4.6.4: how an image with this orientation must be turned
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
DAMAGED_METADATA = "flaxres_damaged_metadata"  # key in `Image.info`

_warnings_lock = threading.Lock()  # Python's filters of warnings belong to the whole process


class BrokenImageError(DatasetError):
    """An image that cannot be read or decoded.

    Attributes:
      problem: file or record, and what is wrong with it.
    """

    def __init__(self, problem: str):
        """Creates the error; its message is `problem` with advice for data sets."""
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return (
            f"{self.problem}; remove it, replace it, or skip such images with "
            "--config.dataset.broken_images=skip"
        )


class _SizeError(ValueError):
    """An image has more pixels or scans than are decoded."""


def decode(data: bytes, description: str, channels: int = 3) -> Image.Image:
    """Decodes an image file of one of `FORMATS`.

    Args:
      data: contents of the file.
      description: file or record of the image, for messages.
      channels: channels of the result: 1, 3 or 4.

    Returns:
      The image. `has_damaged_metadata` tells whether parts of its metadata were ignored.

    Raises:
      BrokenImageError: the data is empty, truncated, of another format, or larger than `MAX_SIDE`,
        `MAX_PIXELS` and `MAX_SCANS` allow.
    """
    if not data:
        raise BrokenImageError(f"{description} is empty")
    try:
        image, content, is_damaged = _load(data)
        transpose, has_damaged_exif = _orientation(image)
        image = _convert(image, content, channels)
        if transpose is not None:
            image = image.transpose(transpose)
    except Exception as error:  # Pillow's readers raise exceptions of many types
        raise BrokenImageError(
            f"{description} cannot be decoded ({_reason(error, data)})"
        ) from None
    if is_damaged or has_damaged_exif:
        image.info[DAMAGED_METADATA] = True
    return image


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """An image file that is not decoded yet.

    Attributes:
      data: contents of the file.
      description: file or record of the image, for messages.
      channels: channels of the decoded image: 1, 3 or 4.
    """

    data: bytes
    description: str
    channels: int = 3

    def decode(self) -> Image.Image:
        """Decodes the image; see `decode`."""
        return decode(self.data, self.description, self.channels)

    def plain_jpeg(self) -> Image.Image | None:
        """Returns the opened image if it is an upright RGB or gray JPEG file without damage.

        Only its header has been read. Other files, and those that cannot be opened, give None.
        """
        with contextlib.suppress(Exception):  # `decode` raises the error, or repairs the file
            image, is_damaged = _open(self.data)
            allowed = {"RGB": (3,), "L": (1, 3)}.get(image.mode, ())
            if image.format == "JPEG" and not is_damaged and self.channels in allowed:
                return image if _orientation(image) == (None, False) else None
        return None


def has_damaged_metadata(image: Image.Image) -> bool:
    """Returns True if `decode` ignored metadata of an image that is damaged or too large."""
    return DAMAGED_METADATA in image.info


def _load(data: bytes) -> tuple[Image.Image, bytes, bool]:
    """Returns an image, the contents that were decoded, and True if metadata is damaged."""
    try:
        image, has_warnings = _load_once(data)
        return image, data, has_warnings
    except _SizeError:
        raise
    except Exception as error:
        first_error = error
    length = len(data)
    for keeps_exif in (True, False):
        content = without_metadata(data, keeps_exif)
        if content is not None and len(content) < length:
            length = len(content)
            with contextlib.suppress(Exception):  # `first_error` is the one to report
                return _load_once(content)[0], content, True
    raise first_error


def _load_once(data: bytes) -> tuple[Image.Image, bool]:
    """Returns an image, and True if Pillow warned of its metadata."""
    image, is_damaged = _open(data)
    image.load()
    if image.mode == "P" and image.palette is None:
        raise ValueError("its palette is missing")
    return image, is_damaged


def _open(data: bytes) -> tuple[Image.Image, bool]:
    """Returns an image that is not decoded yet, and True if Pillow warned of its metadata."""
    with _recorded_warnings() as recorded:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    if max(image.size) > MAX_SIDE or image.width * image.height > MAX_PIXELS:
        raise _SizeError(
            f"it has {image.height:,} x {image.width:,} pixels; at most {MAX_SIDE:,} a side and "
            f"{MAX_PIXELS:,} in total are allowed"
        )
    if image.info.get("progressive") and (num_scans := count_scans(data)) > MAX_SCANS:
        raise _SizeError(f"it has {num_scans:,} scans; at most {MAX_SCANS} are allowed")
    is_damaged = any(w.category is not Image.DecompressionBombWarning for w in recorded)
    return image, is_damaged


def _orientation(image: Image.Image) -> tuple[Image.Transpose | None, bool]:
    """Returns how to turn an image, and True if its EXIF metadata is damaged."""
    with _recorded_warnings() as recorded:
        try:
            exif = image.getexif()
            if not exif and "exif" in image.info:
                Image.Exif().load(
                    image.info["exif"]
                )  # raises what Pillow hid when it opened a JPEG
            return ORIENTATIONS.get(exif.get(ExifTags.Base.Orientation, 1)), bool(recorded)
        except Exception:  # damaged bytes raise many types
            return None, True


@contextlib.contextmanager
def _recorded_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Context in which warnings are recorded, which Pillow would otherwise print for each image."""
    with _warnings_lock, warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        yield recorded


def _convert(image: Image.Image, data: bytes, channels: int) -> Image.Image:
    """Converts an image to `channels` channels of eight bits."""
    transparent = _transparent_pixels(image, data)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if transparent is not None:
        image.info.pop("transparency", None)
        pixels = np.array(image.convert(MODES[channels]))
        pixels[(transparent, 3) if channels == 4 else transparent] = 0
        return Image.fromarray(pixels)
    if channels != 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert(MODES[channels])


def _transparent_pixels(image: Image.Image, data: bytes) -> Bool[np.ndarray, "height width"] | None:
    """Returns which pixels have the transparent color of an image without a palette, if any.

    Pillow compares 16-bit pixels after it has reduced them to eight bits, and those of less than
    eight bits after it has scaled them, but the color in the file is neither reduced nor scaled.
    """
    color = image.info.get("transparency")
    if color is None or image.mode not in ("1", "L", "I", "I;16", "RGB"):
        return None
    if image.mode == "1":
        return np.asarray(image) == bool(color)
    depth = data[24] if image.format == "PNG" else 8  # IHDR is always the first chunk
    max_sample = 2**depth - 1
    samples = np.asarray(image)
    if image.mode != "RGB":
        scale = 255 // max_sample if depth < 8 else 1
        return samples == (color & max_sample) * scale
    if depth == 16:
        samples = samples.astype(np.uint16) << 8 | _lower_bytes(data)
    return (samples == [sample & max_sample for sample in color]).all(axis=2)


def _lower_bytes(data: bytes) -> np.ndarray:
    """Returns the lower eight bits of a PNG image of 16-bit RGB, (height, width, 3)."""
    with _recorded_warnings():
        image = Image.open(io.BytesIO(data), formats=("PNG",))
    # This reads samples as little-endian numbers and keeps the upper bytes of those.
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    return np.asarray(image)


def _reason(error: Exception, data: bytes) -> str:
    """Returns why an image cannot be decoded."""
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS:,} pixels"
    if not isinstance(error, UnidentifiedImageError):
        return one_line(error)
    # The error's own message would name an object in memory.
    for prefix, name in ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG", "PNG"), (b"GIF8", "GIF")):
        if data.startswith(prefix):
            return f"damaged, or not a kind of {name} that can be decoded"
    return f"not a file of the formats {', '.join(FORMATS)}"
