"""The tables of a report, as text that is the same in HTML and in Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from experiments.reporting.run_status import FINISHED, UNFINISHED, RunStatus, WorkdirStatus
from experiments.results.tables import as_cells
from experiments.sweeps.plan import as_flag

DIGITS_OF_A_COMMIT = 10
# Of `experiments.results.tables.result_rows`.
ERRORS = ("train_error", "train_error_std", "test_error", "test_error_std")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it.

    Attributes:
      header: of each column.
      rows: of cells.
      states: of each row, one of `experiments.reporting.run_status.STATES`, where they are told; else empty.
      numbers: whether a column holds numbers, or what is as short.
    """

    header: list[str]
    rows: list[list[str]]
    states: list[str]
    numbers: list[bool]


def results(facts: WorkdirStatus) -> Table | None:
    """Means and standard deviations over seeds, by net, with how many of its runs are finished.

    Errors are those of finished runs. A net without any has those so far of its unfinished run, and
    none if several are unfinished: they are at different steps, and a mean would hide it.
    """
    if not facts.results:
        return None
    shown, finished, states = [], [], []
    for row in facts.results:
        own = [run for run in facts.runs if run.net == row["net"]]
        count = sum(run.state == FINISHED for run in own)
        begun = sum(run.step > 0 for run in own)
        shown.append(row if count or begun < 2 else row | dict.fromkeys(ERRORS))
        so_far = ", so far" if begun == 1 and not count else ""
        finished.append(f"{count} of {len(own)}{so_far}")
        states.append(FINISHED if count == len(own) else UNFINISHED)
    table = as_cells(shown)
    for cells, text in zip(table, ["runs finished", *finished], strict=True):
        cells.insert(1, text)
    header, *rows = table
    return Table(header, rows, states, [False, *[True] * (len(header) - 1)])


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table of runs.

    Attributes:
      header: what stands on top.
      cell: of a run.
      number: whether it is one.
      always: also where no run has it.
    """

    header: str
    cell: Callable[[RunStatus], str]
    number: bool = False
    always: bool = True


def _value(field: str, form: str = "") -> Callable[[RunStatus], str]:
    """A field of the runs' rows; empty where a run has none."""

    def cell(run: RunStatus) -> str:
        value = run.row.get(field)
        return "" if value is None else format(value, form)

    return cell


def _step(run: RunStatus) -> str:
    if run.state == FINISHED:
        return f"{run.step:,}"
    return f"{run.step:,} of {run.num_steps:,} ({run.percent}%)"


def _device(run: RunStatus) -> str:
    row = run.row
    text = row.get("device") or ""
    if (row.get("devices") or 1) > 1:
        text += f", {row['devices']} of them"
    if (row.get("processes") or 1) > 1:
        text += f", {row['processes']} processes"
    return text


def short(commit: str | None) -> str:
    """The first digits of a commit, and whether it is dirty."""
    if not commit:
        return ""
    digits, *dirty = commit.partition("-")
    return digits[:DIGITS_OF_A_COMMIT] + "".join(dirty)


COLUMNS = (
    Column("run", lambda run: run.name),
    Column("state", lambda run: run.state),
    Column("step", _step, number=True),
    Column("training error %", _value("final_train_error", ".2f"), number=True),
    Column("test error %", _value("final_test_error", ".2f"), number=True),
    Column("best step", _value("best_step", ","), number=True, always=False),
    Column("validation error %, best", _value("best_validation_error", ".2f"), True, False),
    Column("test error % at best", _value("test_error_at_best", ".2f"), True, False),
    Column("training time, s", _value("train_seconds", ",.1f"), number=True),
    Column("images/s", _value("images_per_second", ",.0f"), number=True),
    Column("params", _value("params", ","), number=True),
    Column("device", _device),
    Column("jax", _value("jax")),
    Column("flaxres", _value("flaxres")),
    Column("commit", lambda run: short(run.row.get("commit"))),
    Column("failure", lambda run: run.failure, always=False),
)


def runs(facts: WorkdirStatus) -> Table:
    """A row for each run: how it stands, its last errors, how fast it was, and where."""
    shown = [column for column in COLUMNS if column.always or any(map(column.cell, facts.runs))]
    return Table(
        [column.header for column in shown],
        [[column.cell(run) for column in shown] for run in facts.runs],
        [run.state for run in facts.runs],
        [column.number for column in shown],
    )


def differing(facts: WorkdirStatus) -> Table | None:
    """The fields of the configs in which the runs differ, by run; None if they do in none."""
    fields = facts.differing
    if not fields:
        return None
    rows = [[run.name, *(as_flag(run.config.get(f)) for f in fields)] for run in facts.runs]
    return Table(["run", *fields], rows, [""] * len(rows), [False] * (1 + len(fields)))


def shared(facts: WorkdirStatus) -> Table:
    """The fields that are the same in all runs, with their values."""
    rows = [[field, as_flag(value)] for field, value in facts.shared.items()]
    return Table(["field", "value"], rows, [""] * len(rows), [False, False])
