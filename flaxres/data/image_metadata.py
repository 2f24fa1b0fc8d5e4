"""Structure of JPEG and PNG files: removal of damaged metadata, number of scans."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# PNG specification, section 5.6; the palette's transparency is part of the pixels.
PNG_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
PNG_EXIF = b"eXIf"

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
# ITU-T T.81, table B.1.
JPEG_SCAN, JPEG_COMMENT = 0xDA, 0xFE
JPEG_APP0, JPEG_APP1, JPEG_APP14, JPEG_APP15 = 0xE0, 0xE1, 0xEE, 0xEF
# Segments that decide the color space, and their smallest complete lengths with the length field.
JPEG_COLOR_SEGMENTS = {JPEG_APP0: (b"JFIF\0", 16), JPEG_APP14: (b"Adobe", 14)}


def without_metadata(data: bytes, keeps_exif: bool) -> bytes | None:
    """Returns a JPEG or PNG file with only what its pixels need.

    Args:
      data: contents of the file.
      keeps_exif: if True, EXIF metadata is kept, because it has the orientation.

    Returns:
      The contents without metadata; None for other formats, and for a file whose structure is
      damaged before the pixels.
    """
    try:
        if data.startswith(PNG_SIGNATURE):
            return _png_without_metadata(data, keeps_exif)
        if data.startswith(JPEG_START):
            return _jpeg_without_metadata(data, keeps_exif)
    except (struct.error, ValueError):
        pass
    return None


def _png_without_metadata(data: bytes, keeps_exif: bool) -> bytes:
    kept = [PNG_SIGNATURE]
    start, name = len(PNG_SIGNATURE), b""
    while name != b"IEND" and start < len(data):
        length, name = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length  # length, name, content and checksum
        if name in PNG_PIXEL_CHUNKS or (keeps_exif and name == PNG_EXIF):
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def _jpeg_without_metadata(data: bytes, keeps_exif: bool) -> bytes:
    kept = [JPEG_START]
    for marker, start, end in _jpeg_segments(data):
        segment = data[start:end]
        if marker == JPEG_SCAN or _is_needed(marker, segment, keeps_exif):
            kept.append(segment)
    return b"".join(kept)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields the marker, start and end of each segment; the last one begins with the first scan."""
    start = len(JPEG_START)
    while True:
        prefix, marker, length = struct.unpack_from(">BBH", data, start)
        if prefix != 0xFF:
            raise ValueError("no marker")
        if marker == 0xFF:  # a fill byte
            start += 1
            continue
        if marker == JPEG_SCAN:
            yield marker, start, len(data)
            return
        yield marker, start, start + 2 + length
        start += 2 + length


def count_scans(data: bytes) -> int:
    """Returns the number of scans of a JPEG file, or more if its structure is damaged.

    In the pixels, 0 follows every byte 255 that does not begin a marker.
    """
    start, end = 0, len(data)
    with contextlib.suppress(struct.error, ValueError):
        *_, (_, start, _) = _jpeg_segments(data)
        end = data.index(JPEG_END, start)
    return data.count(bytes((0xFF, JPEG_SCAN)), start, end)


def _is_needed(marker: int, segment: bytes, keeps_exif: bool) -> bool:
    """Returns True for a JPEG segment that the pixels or the orientation need."""
    content = segment[4:]
    if marker in JPEG_COLOR_SEGMENTS:
        name, min_length = JPEG_COLOR_SEGMENTS[marker]
        return content.startswith(name) and len(segment) - 2 >= min_length
    if marker == JPEG_APP1 and content.startswith(b"Exif\0\0"):
        return keeps_exif
    return not (JPEG_APP0 <= marker <= JPEG_APP15 or marker == JPEG_COMMENT)
