"""Medians and quartiles, tables on the terminal, and results as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from flaxres.errors import UserError

FILE_WIDTH = 200  # columns of a table in a file or a pipe


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median and quartiles of measured values."""

    median: float
    low: float
    high: float

    @classmethod
    def from_values(cls, values: Sequence[float] | np.ndarray) -> Spread:
        """Computes the median and quartiles of at least one value."""
        low, median, high = np.percentile(values, (25, 50, 75))
        return cls(float(median), float(low), float(high))

    def __str__(self) -> str:
        return f"{_format(self.median)} ({_format(self.low)} to {_format(self.high)})"


def _format(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table whose first column has names and whose other columns have values.

    If it is too wide for the terminal, the values wrap.
    """
    table = Table(box=None, header_style="bold")
    for i, column in enumerate(columns):
        justify: Literal["left", "right"] = "right" if i else "left"
        table.add_column(column, justify=justify, no_wrap=not i, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    console.print(title, style="italic")
    console.print(table)


def write_json(path: str | None, result: Any) -> None:
    """Writes a result as one line of JSON to a file or, if there is no path, prints it.

    Raises:
      UserError: the file cannot be written.
    """
    text = json.dumps(result, default=dataclasses.asdict)
    if path:
        write_text(path, text + "\n")
    else:
        print(text, flush=True)


def write_text(path: str, text: str) -> None:
    """Writes a text to a file, whose directory is created.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})") from None
