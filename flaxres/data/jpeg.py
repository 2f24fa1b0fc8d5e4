"""Compiled decoder for crops of JPEG files (`cc/`), with the same pixels as Pillow in less time.

It decodes only the blocks that a crop needs, with Pillow's libjpeg-turbo. Pillow decodes the files
that it cannot reproduce exactly, such as damaged ones.
"""

from __future__ import annotations

import ctypes
import functools
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
from jaxtyping import UInt8
from PIL import Image, _imaging

from flaxres.cpu.build import Build
from flaxres.cpu.kernel_files import LibrarySources, load_file
from flaxres.cpu.settings import KERNELS_SWITCH
from flaxres.data.decode import EncodedImage
from flaxres.data.resize import Crop
from flaxres.errors import DatasetError, one_line

SOURCES = LibrarySources(
    "jpeg",
    Path(__file__).with_name("cc") / "jpeg_crop.cc",
    ("flaxres_jpeg_crop", "flaxres_jpeg_version"),
)
# libjpeg's functions, in the order of `Functions` in cc/libjpeg.h.
LIBJPEG_FUNCTIONS = (
    *("std_error", "CreateDecompress", "mem_src", "read_header", "has_multiple_scans"),
    *("start_decompress", "crop_scanline", "skip_scanlines", "read_scanlines"),
    *("finish_decompress", "destroy_decompress"),
)
# Since this version, Pillow resizes rows before columns if the height shrinks by more than twice as
# many pixels as the width (ImagingResampleInner in Resample.c).
ROWS_FIRST_VERSION = 13


class _Crop(ctypes.Structure):
    """Arguments of `flaxres_jpeg_crop`: `Crop` in cc/jpeg_crop.cc."""

    _fields_ = (
        *((name, ctypes.c_float) for name in ("left", "top", "right", "bottom")),
        *((name, ctypes.c_int32) for name in ("scaled_width", "scaled_height")),
        *((name, ctypes.c_int32) for name in ("x", "y", "width", "height")),
        *((name, ctypes.c_int32) for name in ("channels", "reduction", "rows_first")),
    )


class JpegCropper:
    """Decodes crops of JPEG files with the compiled library."""

    def __init__(self, path: Path):
        """Loads the library.

        Raises:
          OSError: the file must not or cannot be loaded.
          AttributeError: Pillow's libjpeg lacks a function.
        """
        pillow = ctypes.CDLL(_imaging.__file__)  # finds the functions of its libjpeg
        pointers = [
            ctypes.cast(getattr(pillow, f"jpeg_{name}"), ctypes.c_void_p).value
            for name in LIBJPEG_FUNCTIONS
        ]
        self._functions = (ctypes.c_void_p * len(pointers))(*pointers)
        self._crop = load_file(path, SOURCES.symbols).flaxres_jpeg_crop
        self._crop.argtypes = (
            *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t),
            *(ctypes.POINTER(_Crop), ctypes.c_void_p),
        )

    def crop(
        self, data: bytes, size: tuple[int, int], crop: Crop, channels: int
    ) -> UInt8[np.ndarray, "height width channels"] | None:
        """Decodes a crop, or returns None if Pillow must do it.

        Args:
          data: contents of the file.
          size: (width, height) of the image, in pixels.
          crop: box, scaled size and window of the crop.
          channels: 3 for a color image, 1 for a gray one.
        """
        left, top, right, bottom = crop.window
        pixels = np.empty((bottom - top, right - left, channels), np.uint8)
        width, height = (-(-length // crop.reduction) for length in size)
        rows_first = (
            int(PIL.__version__.partition(".")[0]) >= ROWS_FIRST_VERSION
            and height > crop.scaled[1]
            and height - crop.scaled[1] > 2 * (width - crop.scaled[0])
        )
        arguments = _Crop(
            *(*crop.box, *crop.scaled, left, top, right - left, bottom - top),
            *(channels, crop.reduction, rows_first),
        )
        done = self._crop(
            self._functions, data, len(data), ctypes.byref(arguments), pixels.ctypes.data
        )
        return pixels if done else None


def crop_jpeg(
    image: EncodedImage, draw_crop: Callable[[tuple[int, int]], Crop], cropper: JpegCropper
) -> UInt8[np.ndarray, "height width channels"] | None:
    """Decodes a crop of a JPEG file, or returns None if Pillow must do it.

    Args:
      image: image file of any format.
      draw_crop: returns the crop for an image of a (width, height).
      cropper: the compiled functions.
    """
    opened = image.plain_jpeg()
    if opened is None:
        return None
    channels = len(opened.getbands())
    pixels = cropper.crop(image.data, opened.size, draw_crop(opened.size), channels)
    if pixels is None or channels == image.channels:
        return pixels
    return np.repeat(pixels, image.channels, axis=2)


@functools.cache
def load_cropper(path: Path) -> JpegCropper:
    """Loads the library that `find_library` returned, once per process.

    Raises:
      DatasetError: the file was removed or changed after the program had found it.
    """
    try:
        return JpegCropper(path)
    except (OSError, AttributeError) as error:
        raise DatasetError(
            f"the decoder for crops of JPEG files cannot be loaded ({one_line(error)}); rerun the "
            "same command to build it again"
        ) from None


@functools.cache
def find_library() -> Path | None:
    """Returns the file of the compiled functions, or None if Pillow must decode all images.

    The first call compiles them, which takes some seconds, and compares their pixels with Pillow's.
    Pillow decodes all images if there is no cache or no C++ compiler (a notice is printed), or if
    FLAXRES_CPU_KERNELS=0.
    """
    if os.environ.get(KERNELS_SWITCH) == "0":
        return None
    build = Build(SOURCES)
    problem = ""
    if build.wait() is None:
        problem = f"cannot be built: {build.problem}"
    elif build.path is None:  # a notice has given the reason
        return None
    else:
        try:
            if not _agrees_with_pillow(JpegCropper(build.path)):
                problem = f"differs from Pillow {PIL.__version__}"
        except (OSError, AttributeError) as error:
            problem = f"cannot be loaded: {one_line(error)}"
    if problem:
        print(
            f"The decoder for crops of JPEG files {problem}. Images are decoded by Pillow instead, "
            "which takes about twice as long.",
            file=sys.stderr,
        )
        return None
    return build.path


def _agrees_with_pillow(cropper: JpegCropper) -> bool:
    """Compares crops of generated images, which detects another libjpeg or another resizing."""
    rng = np.random.default_rng(0)
    for mode, options in (
        ("RGB", {"subsampling": "4:2:0"}),
        ("RGB", {"subsampling": "4:2:2", "progressive": True}),
        ("L", {"optimize": True}),
    ):
        for size, crop in (
            ((83, 150), Crop((21.0, 70.0, 61.0, 131.0), (30, 40), (0, 0, 30, 40))),
            ((150, 83), Crop((67.5, 35.25, 133.0, 80.5), (90, 50), (3, 5, 70, 50))),
        ):
            small = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
            file = io.BytesIO()
            small.resize(size).convert(mode).save(file, "JPEG", quality=90, **options)
            channels = len(small.convert(mode).getbands())
            pixels = cropper.crop(file.getvalue(), size, crop, channels)
            expected = np.asarray(crop.apply(Image.open(file)))
            if pixels is None or not np.array_equal(pixels.reshape(expected.shape), expected):
                return False
    return True
