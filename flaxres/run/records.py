"""Readers of `metrics.jsonl` and `layers.jsonl`: all records, the newest ones, or columns.

A run may log millions of records. Only `read_metrics` keeps all of them in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float64, Int64

from flaxres.errors import DamagedFileError, printable
from flaxres.run.schemas import (
    LAYER_TYPES,
    METRIC_TYPES,
    FieldType,
    Integer,
    check_fields,
    check_object,
    require_fields,
)
from flaxres.run.text_files import line_blocks, lines_from_end
from flaxres.run.workdir import LAYERS_FILE, METRICS_FILE

Record = dict[str, float]  # values of one logged step by name, including 'step'
Columns = dict[str, Float64[np.ndarray, " records"]]  # values of each metric by name
REPAIR_HINT = "; restore the file, or remove this line"

_any_decoder = msgspec.json.Decoder()
_number_decoder = msgspec.json.Decoder(dict[str, Integer | float])


def read_metrics(workdir: Path, name: str = METRICS_FILE) -> list[Any]:
    """Reads the records of `metrics.jsonl` or `layers.jsonl`, in order.

    Ignores an incomplete last line, which a killed process leaves.

    Args:
      workdir: directory of the run.
      name: name of the file.

    Returns:
      The records; [] if there is no file.

    Raises:
      DamagedFileError: a line is not a valid record, or steps are not increasing, or the file
        cannot be read.
    """
    return [record for block in record_blocks(workdir, name) for record in block]


def record_blocks(workdir: Path, name: str = METRICS_FILE) -> Iterator[list[Any]]:
    """Yields the records that `read_metrics` returns, in blocks."""
    for records, _ in _blocks(workdir, name):
        yield records


def _blocks(workdir: Path, name: str) -> Iterator[tuple[list[Any], Columns | None]]:
    """Yields the records of a file in blocks, and the columns of each block.

    The columns are None if the block was decoded line by line.
    """
    path = workdir / name
    num_lines, last_step = 0, -1  # up to the previous block
    try:
        for lines in line_blocks(path):
            block = None if name == LAYERS_FILE else _decode_numeric_block(lines, last_step)
            records, columns = block or (_decode_lines(lines, path, num_lines, last_step), None)
            yield records, columns
            num_lines, last_step = num_lines + len(records), int(records[-1]["step"])
    except FileNotFoundError:
        return


def _decode_numeric_block(lines: bytes, last_step: int) -> tuple[list[Record], Columns] | None:
    """Decodes a block in which every value is a valid number; returns None for any other block."""
    try:
        records: list[Record] = _number_decoder.decode_lines(lines)
        if len(records) != lines.count(b"\n") + 1:
            return None
        if any(type(record["step"]) is not int for record in records):
            return None
        columns = _columns(records)
        if np.any(np.diff(columns["step"], prepend=last_step) <= 0):
            return None
        for name in columns.keys() & METRIC_TYPES.keys():
            for extreme in (np.fmin.reduce(columns[name]), np.fmax.reduce(columns[name])):
                # A column of steps is float64: only `strict=False` converts 8.0 to an integer.
                msgspec.convert(float(extreme), METRIC_TYPES[name].type, strict=name != "step")
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
        return None
    return records, columns


def _columns(records: Sequence[Record]) -> Columns:
    """Returns the values of each metric by name, with NaN for records without it."""
    groups: dict[tuple[str, ...], list[int]] = {}  # indices of records by their metric names
    for index, names in enumerate(map(tuple, records)):
        groups.setdefault(names, []).append(index)
    columns = {name: np.full(len(records), np.nan) for names in groups for name in names}
    for names, indices in groups.items():
        values = np.array([list(records[index].values()) for index in indices], np.float64)
        for name, column in zip(names, values.T, strict=True):
            columns[name][indices] = column
    return columns


def _decode_lines(lines: bytes, path: Path, num_lines: int, last_step: int) -> list[Any]:
    """Decodes a block line by line; an error names the first damaged line."""
    records = []
    for line_number, line in enumerate(lines.split(b"\n"), start=num_lines + 1):
        where = f"{path}, line {line_number}"
        records.append(decode_record(line, where, path.name))
        try:
            check_step_increases(records[-1]["step"], last_step, where)
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}{REPAIR_HINT}") from None
        last_step = records[-1]["step"]
    return records


def check_step_increases(step: int, last_step: int, where: str) -> None:
    """Checks that steps increase.

    Raises:
      DamagedFileError: `step` is not above `last_step`.
    """
    if step <= last_step:
        raise DamagedFileError(
            f"{where}: 'step' must be above {last_step}, the step of the line before, got {step}"
        )


def decode_record(line: bytes, where: str, name: str = METRICS_FILE) -> Any:
    """Decodes and checks one line.

    Args:
      line: the line, without its line break.
      where: start of an error message: the file and the line.
      name: name of the file.

    Returns:
      The record. In metrics.jsonl, values that are not numbers are dropped, because newer versions
      of flaxres may write such values.

    Raises:
      DamagedFileError: the line is not a valid record.
    """
    try:
        decoded = _any_decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        text = printable(str(error)).removeprefix("JSON is malformed: ")
        raise DamagedFileError(f"{where} is not valid JSON ({text}){REPAIR_HINT}") from None
    types: Mapping[str, FieldType] = LAYER_TYPES if name == LAYERS_FILE else METRIC_TYPES
    try:
        record = check_object(decoded, where)
        require_fields(record, tuple(LAYER_TYPES) if name == LAYERS_FILE else ("step",), where)
        check_fields(record, types, where)
    except DamagedFileError as error:
        raise DamagedFileError(f"{error}{REPAIR_HINT}") from None
    if name == LAYERS_FILE:
        return record
    return {key: value for key, value in record.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def records_from_end(workdir: Path, name: str = METRICS_FILE) -> Iterator[tuple[int, Any]]:
    """Yields the records of a file from last to first.

    It reads the file backward, only as far as the caller iterates.

    Yields:
      The offset of the end of the record's line in the file, and the record.

    Raises:
      DamagedFileError: a line is not a valid record, or the file cannot be read.
    """
    path = workdir / name
    try:
        for end, line in lines_from_end(path):
            try:
                record = decode_record(line, str(path), name)
            except DamagedFileError:
                # The line number is counted only for the message.
                line_number = _count_line_breaks(path, end)
                record = decode_record(line, f"{path}, line {line_number}", name)
            yield end, record
    except FileNotFoundError:
        return


def _count_line_breaks(path: Path, end: int) -> int:
    with path.open("rb") as file:
        return sum(file.read(min(1 << 20, end - i)).count(b"\n") for i in range(0, end, 1 << 20))


def last_record(workdir: Path) -> Record | None:
    """Returns the last record of `metrics.jsonl`, or None if there is none.

    Raises:
      DamagedFileError: the last line is not a valid record, or the file cannot be read.
    """
    return next((record for _, record in records_from_end(workdir)), None)


@dataclasses.dataclass(frozen=True, eq=False)
class MetricColumns:
    """The records of a run as columns.

    Attributes:
      steps: step of each record, increasing.
      values: values of each metric by name, with NaN for records without it.
    """

    steps: Int64[np.ndarray, " records"]
    values: Mapping[str, Float64[np.ndarray, " records"]]

    def __len__(self) -> int:
        return len(self.steps)

    def curve(
        self, metric: str
    ) -> tuple[Int64[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
        """Returns the steps at which `metric` was recorded, and its values."""
        if metric not in self.values:
            return np.zeros(0, np.int64), np.zeros(0)
        values = self.values[metric]
        recorded = ~np.isnan(values)
        return self.steps[recorded], values[recorded]

    def prepend(self, record: Record) -> MetricColumns:
        """Returns a copy with `record` before the first."""
        first = {name: np.array([value], np.float64) for name, value in record.items()}
        return join_columns([first, {"step": self.steps.astype(np.float64), **self.values}])


def read_columns(workdir: Path) -> MetricColumns:
    """Reads `metrics.jsonl`, as `read_metrics` does, into columns."""
    return join_columns(
        columns or _columns(records) for records, columns in _blocks(workdir, METRICS_FILE)
    )


def join_columns(
    parts: Iterable[Mapping[str, Float64[np.ndarray, " _"]]],
) -> MetricColumns:
    """Joins the columns of blocks of records.

    Args:
      parts: values of each metric and of 'step' by name, with NaN where a record lacks it. A block
        need not have all metrics.
    """
    blocks = list(parts)
    joined = {}
    for name in dict.fromkeys(name for block in blocks for name in block):
        missing = (np.full(len(block["step"]), np.nan) for block in blocks)
        joined[name] = np.concatenate(
            [block.get(name, nan) for block, nan in zip(blocks, missing, strict=True)]
        )
    steps = joined.pop("step", np.zeros(0)).astype(np.int64)
    return MetricColumns(steps, joined)
