"""TensorBoard's event files, written without TensorFlow or Protocol Buffers.

An event file is a sequence of records, each with a length and checksums (TensorFlow's TFRecord
format). A record holds a protocol buffer `Event` (tensorboard/compat/proto/event.proto). Only the
few fields that scalars need are encoded here. The library tensorboardX writes the same files, but
it imports PyTorch where that is installed, which takes a second.
"""

from __future__ import annotations

import functools
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from flaxres.files import open_regular

VERSION = b"brain.Event:2"  # the first record of every event file

# Numbers of the fields in event.proto and summary.proto, and the value of SessionLog.START.
WALL_TIME, STEP, FILE_VERSION, SUMMARY, SESSION_LOG = 1, 2, 3, 5, 7
SUMMARY_VALUE = 1
VALUE_TAG, VALUE_SIMPLE_VALUE = 1, 2
SESSION_STATUS, SESSION_START = 1, 1

# Wire types of Protocol Buffers.
VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5

CRC32C_POLYNOMIAL = 0x82F63B78  # Castagnoli, reversed
MASK_DELTA = 0xA282EAD8  # TFRecord stores rotated checksums with this summand


class EventFile:
    """An open event file. Every write is complete in the file when it returns."""

    def __init__(self, directory: Path):
        """Creates a file in a directory and writes its version.

        Raises:
          OSError: the file cannot be written.
        """
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        descriptor = open_regular(directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._write_event(_bytes_field(FILE_VERSION, VERSION))

    def write_restart(self, step: int) -> None:
        """Writes that a run restarts: TensorBoard discards steps from `step` of earlier files."""
        start = _varint_field(SESSION_STATUS, SESSION_START)
        self._write_event(_varint_field(STEP, step) + _bytes_field(SESSION_LOG, start))

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the values of one step by name."""
        values = b"".join(
            _bytes_field(
                SUMMARY_VALUE,
                _bytes_field(VALUE_TAG, name.encode())
                + _key(VALUE_SIMPLE_VALUE, FIXED32)
                + struct.pack("<f", value),
            )
            for name, value in scalars.items()
        )
        self._write_event(_varint_field(STEP, step) + _bytes_field(SUMMARY, values))

    def _write_event(self, fields: bytes) -> None:
        event = _key(WALL_TIME, FIXED64) + struct.pack("<d", time.time()) + fields
        length = struct.pack("<Q", len(event))
        checksums = [struct.pack("<I", _masked_crc(data)) for data in (length, event)]
        self._file.write(length + checksums[0] + event + checksums[1])

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint_field(field: int, value: int) -> bytes:
    return _key(field, VARINT) + _varint(value)


def _bytes_field(field: int, data: bytes) -> bytes:
    return _key(field, LENGTH_DELIMITED) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    """Encodes a number that is not negative, 7 bits in each byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _masked_crc(data: bytes) -> int:
    """Returns the CRC-32C of data, rotated by 15 bits, as TFRecord files store it."""
    table = _crc_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


@functools.cache
def _crc_table() -> list[int]:
    """Returns the CRC-32C of each byte."""
    table = list(range(256))
    for _ in range(8):
        table = [crc >> 1 ^ (CRC32C_POLYNOMIAL if crc & 1 else 0) for crc in table]
    return table
