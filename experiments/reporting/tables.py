"""Tables of a report: cells of text, the same in HTML and in Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from flaxres.experiments.reporting.run_status import (
    DAMAGED,
    FINISHED,
    UNFINISHED,
    RunStatus,
    WorkdirStatus,
)
from flaxres.experiments.results.tables import as_cells, as_flag
from flaxres.run.environments import EARLIER

COMMIT_DIGITS = 10
# Keys in the rows of `experiments.results.tables.result_rows`.
ERRORS = ("train_error", "train_error_std", "test_error", "test_error_std")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its name.

    Attributes:
      header: title of each column.
      rows: cells of each row.
      states: state of each row, one of `experiments.reporting.run_status.STATES`, or empty.
      is_number: for each column, True if it holds numbers, which are aligned right.
    """

    header: list[str]
    rows: list[list[str]]
    states: list[str]
    is_number: list[bool]


def results_table(status: WorkdirStatus) -> Table | None:
    """Returns errors by model as mean and standard deviation over seeds; None without metrics.

    Errors are those of finished runs. A model without a finished run shows the latest errors of its
    unfinished run. It shows none if several are unfinished: they are at different steps, which a
    mean would hide.
    """
    if not status.results:
        return None
    shown_rows: list[dict[str, Any]] = []
    finished_cells, states = [], []
    for row in status.results:
        runs = [run for run in status.runs if run.variant == row["net"]]
        num_finished = sum(run.state == FINISHED for run in runs)
        num_started = sum(run.step > 0 for run in runs)
        has_errors = num_finished or num_started < 2
        shown_rows.append(row if has_errors else row | dict.fromkeys(ERRORS))
        finished_cells.append(f"{num_finished} of {len(runs)}")
        states.append(FINISHED if num_finished == len(runs) else UNFINISHED)
    cells = as_cells(shown_rows)
    for row_cells, text in zip(cells, ["runs finished", *finished_cells], strict=True):
        row_cells.insert(1, text)
    header, *rows = cells
    return Table(header, rows, states, [False, *[True] * (len(header) - 1)])


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table of runs.

    Attributes:
      header: title of the column.
      cell: returns the text of a run's cell.
      is_number: True if the cells are numbers.
      always_shown: if False, the column is left out when all its cells are empty.
    """

    header: str
    cell: Callable[[RunStatus], str]
    is_number: bool = False
    always_shown: bool = True


def _format_value(key: str, format_spec: str = "") -> Callable[[RunStatus], str]:
    """Returns a function that formats one value of a run's row, and missing values as ''."""

    def cell(run: RunStatus) -> str:
        value = run.row.get(key)
        return "" if value is None else format(value, format_spec)

    return cell


def _format_step(run: RunStatus) -> str:
    if run.state == DAMAGED:
        return ""
    if run.state == FINISHED:
        return f"{run.step:,}"
    return f"{run.step:,} of {run.num_steps:,} ({run.percent}%)"


def _format_device(run: RunStatus) -> str:
    text: str = run.row.get("device") or ""
    if (run.row.get("devices") or 1) > 1:
        text += f", {run.row['devices']} devices"
    if (run.row.get("processes") or 1) > 1:
        text += f", {run.row['processes']} processes"
    return text


def short_commit(commit: str | None) -> str:
    """Returns the first digits of a commit hash, with '-dirty' if it has that suffix."""
    if not commit:
        return ""
    digits, *suffix = commit.partition("-")
    return digits[:COMMIT_DIGITS] + "".join(suffix)


COLUMNS = (
    Column("run", lambda run: run.name),
    Column("state", lambda run: run.state),
    Column("step", _format_step, is_number=True),
    Column("training error %", _format_value("final_train_error", ".2f"), is_number=True),
    Column("test error %", _format_value("final_test_error", ".2f"), is_number=True),
    Column(
        "EMA test error %",
        _format_value("final_ema_test_error", ".2f"),
        is_number=True,
        always_shown=False,
    ),
    Column("best step", _format_value("best_step", ","), is_number=True, always_shown=False),
    Column(
        "best validation error %",
        _format_value("best_validation_error", ".2f"),
        is_number=True,
        always_shown=False,
    ),
    Column(
        "test error % at best step",
        _format_value("test_error_at_best", ".2f"),
        is_number=True,
        always_shown=False,
    ),
    Column("training time, s", _format_value("train_seconds", ",.1f"), is_number=True),
    Column("images/s", _format_value("images_per_second", ",.0f"), is_number=True),
    Column("params", _format_value("params", ","), is_number=True),
    Column("device", _format_device),
    Column("earlier devices and versions", _format_value(EARLIER), always_shown=False),
    Column("jax", _format_value("jax")),
    Column("flaxres", _format_value("flaxres")),
    Column("commit", lambda run: short_commit(run.row.get("commit"))),
    Column("failure", lambda run: run.failure, always_shown=False),
)


def runs_table(status: WorkdirStatus) -> Table:
    """Returns one row per run: state, latest errors, speed, device and versions."""
    columns = [
        column for column in COLUMNS if column.always_shown or any(map(column.cell, status.runs))
    ]
    return Table(
        [column.header for column in columns],
        [[column.cell(run) for column in columns] for run in status.runs],
        [run.state for run in status.runs],
        [column.is_number for column in columns],
    )


def differing_fields_table(status: WorkdirStatus) -> Table | None:
    """Returns the config fields that differ between runs, one row per run; None if none differ."""
    fields = status.differing_fields
    if not fields:
        return None
    rows = [[run.name, *(as_flag(run.config.get(f)) for f in fields)] for run in status.configured]
    return Table(["run", *fields], rows, [""] * len(rows), [False] * (1 + len(fields)))


def shared_fields_table(status: WorkdirStatus) -> Table:
    """Returns the config fields with the same value in all runs, one row per field."""
    rows = [[field, as_flag(value)] for field, value in status.shared_fields.items()]
    return Table(["field", "value"], rows, [""] * len(rows), [False, False])


def config_changes_table(status: WorkdirStatus) -> Table | None:
    """Returns the fields that changed when a run resumed, one row per change; None if none did."""
    rows = [
        [
            *(run.name, f"{change.step:,}", change.field, as_flag(change.old), as_flag(change.new)),
            "yes" if change.same_learning_rates else "no",
            change.time,
        ]
        for run in status.runs
        for change in run.changes
    ]
    if not rows:
        return None
    header = ["run", "after step", "field", "before", "after", "earlier steps as from the start"]
    return Table([*header, "time"], rows, [""] * len(rows), [False, True, *[False] * 5])
