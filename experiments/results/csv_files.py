"""CSV files: `metrics.csv` and `responses.csv` of a run, and the tables of a sweep."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from flaxres.errors import DamagedFileError, one_line, printable
from flaxres.run.records import MetricColumns, check_step_increases, join_columns
from flaxres.run.schemas import METRIC_TYPES, check_fields, require_fields
from flaxres.run.text_files import open_for_reading

ROWS_PER_BLOCK = 10_000
# A spreadsheet takes a text that begins with one of these characters for a formula.
FORMULA_STARTS = ("=", "+", "-", "@")


def read_metrics_csv(path: Path) -> MetricColumns:
    """Reads metrics.csv.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: a cell is not a number, a row has no step, or steps are not increasing.
    """
    return join_columns(_metric_blocks(path))


def _metric_blocks(path: Path) -> Iterator[dict[str, Float64[np.ndarray, " records"]]]:
    last_step = -1.0
    for line, header, rows in _row_blocks(path, "step"):
        try:
            columns = {
                name: np.array([float(cell) if cell else math.nan for cell in cells])
                for name, cells in zip(header, zip(*rows, strict=True), strict=True)
            }
        except ValueError:
            columns = {}
        if not _are_valid(columns, rows, last_step):
            records = _check_rows(path, line, header, rows, int(last_step))
            columns = {
                name: np.array([record.get(name, math.nan) for record in records])
                for name in dict.fromkeys(name for record in records for name in record)
            }
        yield columns
        last_step = columns["step"][-1]


def _are_valid(
    columns: Mapping[str, Float64[np.ndarray, " records"]],
    rows: Sequence[Sequence[str]],
    last_step: float,
) -> bool:
    """Returns True if columns are surely valid; False if the rows must be checked one by one."""
    if "step" not in columns:
        return False
    steps = columns["step"]
    num_cells = sum(cell != "" for row in rows for cell in row)
    num_finite = sum(np.isfinite(values).sum() for values in columns.values())
    errors = [values for name, values in columns.items() if name.endswith("_error")]
    return bool(
        num_cells == num_finite
        and np.all(steps % 1 == 0)
        and np.all(np.diff(steps, prepend=last_step) > 0)
        and not any(np.any(values < 0) or np.any(values > 100) for values in errors)
        and not np.any(columns.get("images_per_second", np.ones(1)) <= 0)
    )


def _check_rows(
    path: Path, line: int, header: Sequence[str], rows: Sequence[Sequence[str]], last_step: int
) -> list[dict[str, Any]]:
    """Returns one record for each row; an error names the first damaged row."""
    records = []
    for number, row in enumerate(rows, start=line):
        where = f"{path}, line {number}"
        try:
            record: dict[str, Any] = {
                name: _number(name, cell) for name, cell in zip(header, row, strict=True) if cell
            }
            require_fields(record, ("step",), where)
            if record["step"].is_integer():
                record["step"] = int(record["step"])
            check_fields(record, METRIC_TYPES, where)
            check_step_increases(record["step"], last_step, where)
        except (ValueError, DamagedFileError) as error:
            text = f"{error}" if isinstance(error, DamagedFileError) else f"{where}: {error}"
            raise DamagedFileError(f"{text}; restore the file") from None
        last_step = record["step"]
        records.append(record)
    return records


def _number(name: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name!r} must be a finite number, got {printable(cell)[:60]!r}")
    return value


def read_responses_csv(path: Path) -> dict[str, float]:
    """Reads responses.csv; returns the standard deviation by layer, or {} if there is no file.

    Raises:
      DamagedFileError: a row has no layer, or its standard deviation is not a number.
    """
    responses: dict[str, float] = {}
    try:
        for line, header, rows in _row_blocks(path, "layer", "std"):
            for number, row in enumerate(rows, start=line):
                cells = dict(zip(header, row, strict=True))
                try:
                    responses[cells["layer"]] = _number("std", cells["std"])
                except ValueError as error:
                    raise DamagedFileError(f"{path}, line {number}: {error}") from None
    except FileNotFoundError:
        return {}
    return responses


def _row_blocks(path: Path, *required: str) -> Iterator[tuple[int, list[str], list[list[str]]]]:
    """Yields the rows of a CSV file, many at a time.

    Args:
      path: path of the file.
      *required: columns that the file must have.

    Yields:
      The line of the first row, the header, and the rows, which have as many cells.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: the file cannot be read, a column is missing, or a row has another length.
    """
    line = 1
    with (
        open_for_reading(path) as binary,
        io.TextIOWrapper(binary, "utf-8-sig", newline="") as file,
    ):
        try:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if missing := [name for name in required if name not in header]:
                raise ValueError(f"the column {missing[0]!r} is missing")
            if len(set(header)) < len(header):
                raise ValueError("a column is given twice")
            line = 2
            while rows := list(itertools.islice(reader, ROWS_PER_BLOCK)):
                for number, row in enumerate(rows, start=line):
                    if len(row) != len(header):
                        line = number
                        raise ValueError(f"there must be {len(header)} cells, not {len(row)}")
                yield line, header, rows
                line += len(rows)
        except (OSError, ValueError, csv.Error) as error:
            raise DamagedFileError(
                f"{path}, line {line}: {one_line(error)}; restore the file"
            ) from None


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats rows as a CSV file, with a column for each key that any row has.

    Text is printable, and no spreadsheet takes it for a formula: it gets an apostrophe.
    """
    text = io.StringIO()
    fields = dict.fromkeys(field for row in rows for field in row)
    writer = csv.DictWriter(text, fieldnames=list(fields), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({field: _safe_cell(value) for field, value in row.items()})
    return text.getvalue()


def _safe_cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(FORMULA_STARTS) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
