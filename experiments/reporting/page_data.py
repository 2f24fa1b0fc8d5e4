"""Data of the interactive parts of a report: runs, their curves and the fields that differ."""

from __future__ import annotations

from typing import Any

import msgspec

from flaxres.errors import printable
from flaxres.experiments.reporting.curves import CurveTable, count_curves, points_per_curve
from flaxres.experiments.reporting.run_status import RunStatus, WorkdirStatus
from flaxres.experiments.results.tables import as_flag


def page_data(status: WorkdirStatus) -> dict[str, Any]:
    """Returns the data that the scripts of the page read.

    Returns:
      An object with
      - runs: name, variant, state, num_steps, values of `fields`, and curves by metric;
      - fields: config fields whose values differ between runs;
      - steps: lists of steps that the curves refer to (`experiments.reporting.curves.CurveTable`);
      - max_points: largest number of points of a curve; None if no point was left out.
    """
    metrics = [run.metrics for run in status.runs if run.metrics is not None]
    max_points = points_per_curve(count_curves(metrics))
    table = CurveTable(max_points)
    fields = status.differing_fields
    runs = [_run(run, fields, table) for run in status.runs]
    names = [printable(field) for field in fields]
    is_complete = all(len(curve) == 2 for run in runs for curve in run["curves"].values())
    data = {"runs": runs, "fields": names, "steps": table.steps}
    return data | {"max_points": None if is_complete else max_points}


def _run(run: RunStatus, fields: list[str], table: CurveTable) -> dict[str, Any]:
    return {
        "name": printable(run.name),
        "variant": printable(run.variant),
        "state": run.state,
        "num_steps": run.num_steps,
        "fields": [printable(as_flag(run.config[f])) if f in run.config else "" for f in fields],
        "curves": {} if run.metrics is None else table.add(run.metrics),
    }


def as_script_json(data: object) -> str:
    """Returns JSON that is safe within a script element: nothing in it can end the element."""
    text = msgspec.json.encode(data).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
