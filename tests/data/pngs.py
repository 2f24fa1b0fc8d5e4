"""PNG files written by hand after the PNG specification (W3C, third edition)."""

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6  # color types


def chunk(name, content=b"", crc=None):
    crc = zlib.crc32(name + content) if crc is None else crc
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)


def png(width, depth, color_type, rows, before=(), after=(), passes=None):
    """Returns a PNG file.

    Args:
      width: width of the image, in pixels.
      depth: bits of a sample.
      color_type: such as `GRAY`.
      rows: bytes of each row of the image, without filter.
      before: chunks between header and pixels.
      after: chunks after the pixels.
      passes: rows of the Adam7 passes of an interlaced image.
    """
    interlaced = passes is not None
    header = struct.pack(">IIBBBBB", width, len(rows), depth, color_type, 0, 0, interlaced)
    pixels = zlib.compress(b"".join(b"\0" + row for row in (passes if interlaced else rows)))
    body = [chunk(b"IHDR", header), *before, chunk(b"IDAT", pixels), *after, chunk(b"IEND")]
    return SIGNATURE + b"".join(body)


def words(*values):
    """Returns samples of 16 bits."""
    return struct.pack(f">{len(values)}H", *values)


def transparent(*samples):
    """Returns the chunk of the transparent color."""
    return chunk(b"tRNS", words(*samples))


GRAY_PNG = png(4, 8, GRAY, [bytes((1, 2, 3, 4)), bytes((5, 6, 7, 8))])
