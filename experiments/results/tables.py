"""Tables of a sweep: one row per run, and one row per variant with means over seeds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxres.config_types import WEIGHT_DECAY_ON
from flaxres.errors import counted, printable
from flaxres.experiments.results import paper
from flaxres.experiments.results.csv_files import as_csv
from flaxres.experiments.results.plan_file import FlatConfig, read_plan
from flaxres.experiments.results.runs import Run, RunCollection
from flaxres.files import write_atomically
from flaxres.run.environments import EARLIER, describe_devices, describe_earlier

Row = dict[str, Any]  # a row of a CSV file, by column

INFO_COLUMNS = ("params", "device", "devices", "processes", "jax", "flaxres", "commit")
PAPER_HEADER = "He et al. 2015, original images, 64,000 steps: test error %"
NOT_BEGUN, DAMAGED = "not begun", "damaged"
# Characters with a meaning in Markdown or HTML; an underscore within a word has none.
SPECIAL_CHARACTERS = re.compile(r"([\\`*\[\]<>|&~]|\b_|_\b|(?<=_)_)")


def result_rows(
    runs: Mapping[str, Sequence[Run]],
    planned: Iterable[str] = (),
    pytorch_runs: Mapping[str, Sequence[Run]] | None = None,
) -> list[Row]:
    """Summarizes each variant: params, number of seeds, steps and final errors.

    Errors are in percent, with mean and standard deviation over seeds. They are those of the last
    recorded step, never the best ones. `ema_test_error`, the error of the averaged weights, exists
    only for runs with `ema_decay`. Unfinished runs count only if a variant has no finished run;
    `steps` is then below `num_steps`.

    Args:
      runs: runs by variant.
      planned: names of all runs of the sweep (VARIANT/seed-N), to count missing seeds.
      pytorch_runs: finished runs of the same models in PyTorch, by variant.
    """
    planned_seeds = Counter(name.rpartition("/")[0] for name in planned)
    rows: list[Row] = []
    for variant, group in runs.items():
        measured = [run for run in group if run.finished] or group
        row: Row = {
            "net": variant,
            "params": measured[0].info.get("params"),
            "seeds": len(measured),
            "planned_seeds": max(planned_seeds[variant], len(group)),
            "steps": min(run.step for run in measured),
            "num_steps": measured[0].config["num_steps"],
        }
        for metric in ("train_error", "test_error"):
            row |= _mean_and_std(metric, measured, metric)
        ema_errors = _mean_and_std("ema_test_error", measured, "ema_test_error")
        if ema_errors["ema_test_error"] is not None:
            row |= ema_errors
        seconds = [s for run in measured if (s := run.train_seconds()) is not None]
        row["minutes"] = float(np.mean(seconds)) / 60 if seconds else None
        row["device"] = "; ".join(sorted({describe_devices(run.info) for run in measured}))
        if pytorch_runs:
            peers = pytorch_runs.get(variant, [])
            row["peer_seeds"] = len(peers)
            row |= _mean_and_std("peer_test_error", peers, "test_error")
        if paper.has_cifar10_test_set(measured[0].config):
            row["paper_test_error"] = paper.TEST_ERRORS.get(variant)
        rows.append(row)
    for variant, count in planned_seeds.items():
        if variant not in runs:
            row = {"net": variant, "seeds": 0, "planned_seeds": count}
            rows.append(dict.fromkeys(rows[0]) | row)
    return rows


def _mean_and_std(column: str, runs: Iterable[Run], metric: str) -> Row:
    """Returns mean and sample standard deviation (n - 1) of the last values of a metric."""
    values = [value for run in runs if (value := run.last(metric)) is not None]
    mean = float(np.mean(values)) if values else None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {column: mean, f"{column}_std": std}


def as_markdown(rows: Sequence[Row], details: bool = False) -> str:
    """Formats rows of `result_rows` as a Markdown table.

    Args:
      rows: rows of `result_rows`.
      details: if True, adds columns for the training time and the device.
    """
    header, *body = as_cells(rows, details)
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = (header, rule, *([escape_markdown(cell) for cell in cells] for cells in body))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def escape_markdown(text: object) -> str:
    """Returns Markdown, on one line, that is displayed as `text`."""
    return SPECIAL_CHARACTERS.sub(r"\\\1", printable(" ".join(str(text).split())))


def as_cells(rows: Sequence[Row], details: bool = False) -> list[list[str]]:
    """Formats rows of `result_rows` as text cells: a header, then one line per row.

    Args:
      rows: rows of `result_rows`.
      details: if True, adds columns for the training time and the device.
    """
    has_average = any("ema_test_error" in row for row in rows)
    has_pytorch = "peer_test_error" in rows[0]
    has_paper = any("paper_test_error" in row for row in rows)  # only rows of CIFAR-10 have it
    header = ["model", "params", "steps", "final training error %", "final test error %"]
    header += ["final test error of average weights (EMA) %"] * has_average
    header += ["PyTorch, same data: test error %"] * has_pytorch
    header += [PAPER_HEADER] * has_paper
    lines = [header + ["minutes per run", "device"] * details]
    for row in rows:
        steps = NOT_BEGUN if row["steps"] is None else f"{row['steps']:,}"
        is_unfinished = bool(row["seeds"]) and row["steps"] < row["num_steps"]
        if is_unfinished:
            steps += f" of {row['num_steps']:,} (unfinished)"
        seeds = str(row["seeds"])
        if row["seeds"] < row["planned_seeds"]:
            seeds += f" of {row['planned_seeds']}"
        cells = [str(row["net"]), f"{row['params']:,}" if row["params"] else "", steps]
        metrics = ["train_error", "test_error", *["ema_test_error"] * has_average]
        cells += [_error_cell(row, metric, seeds, is_unfinished) for metric in metrics]
        if has_pytorch:
            cells.append(_error_cell(row, "peer_test_error", str(row["peer_seeds"]), False))
        if has_paper:
            error = row.get("paper_test_error")
            cells.append(f"{error:.2f}" if error else "")
        if details:
            minutes = row["minutes"]
            cells += ["", ""] if minutes is None else [f"{minutes:.1f}", row["device"]]
        lines.append(cells)
    return lines


def _error_cell(row: Row, column: str, seeds: str, is_unfinished: bool) -> str:
    mean, std = row.get(column), row.get(f"{column}_std")
    if mean is None:
        return ""
    cell = f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"
    cell += f" ({seeds} seeds)" if seeds != "1" else ""
    return f"latest: {cell}" if is_unfinished else cell


def run_rows(
    runs: Mapping[str, Sequence[Run]],
    planned: Mapping[str, FlatConfig],
    damaged: Mapping[str, str] | None = None,
) -> list[Row]:
    """Lists all runs, also planned ones: state and final errors, then the fields of the config.

    Errors are in percent. With a validation split, `best_step` is the step of the lowest validation
    error, and `test_error_at_best` the test error at that step. Runs with an average of their
    weights have its `final_ema_test_error` too.

    Args:
      runs: runs by variant.
      planned: configs of all planned runs, by run name.
      damaged: why a run cannot be read, by run name; a column that otherwise does not exist.
    """
    rows = []
    for group in runs.values():
        for run in group:
            row: Row = {
                "name": f"{run.variant}/seed-{run.config['seed']}",
                "net": run.variant,
                "seed": run.config["seed"],
                "state": "finished" if run.finished else "unfinished",
                "step": run.step,
                "final_train_error": run.last("train_error"),
                "final_test_error": run.last("test_error"),
                **_ema_error(run),
                **_best_by_validation(run),
                "train_seconds": run.train_seconds(),
                "images_per_second": run.images_per_second(),
                **{field: run.info.get(field) for field in INFO_COLUMNS},
                EARLIER: describe_earlier(run.info),
            }
            rows.append(row | _config_columns(run.config))
    for name, reason in (damaged or {}).items():
        rows.append({"name": name, "net": name.rpartition("/")[0], "state": DAMAGED})
        rows[-1] |= {"reason": reason}
    begun = {row["name"] for row in rows}
    for name, config in planned.items():
        if name not in begun:
            row = {"name": name, "net": name.rpartition("/")[0], "seed": config["seed"]}
            rows.append(row | {"state": NOT_BEGUN, "step": 0} | _config_columns(config))
    return rows


def _config_columns(config: FlatConfig) -> Row:
    return {f"config.{field}": value for field, value in config.items()}


def _ema_error(run: Run) -> Row:
    error = run.last("ema_test_error")
    return {} if error is None else {"final_ema_test_error": error}


def _best_by_validation(run: Run) -> Row:
    columns = ("best_step", "best_validation_error", "test_error_at_best")
    steps, errors = run.curve("validation_error")
    if not len(steps):
        return dict.fromkeys(columns)
    best = int(np.argmin(errors))
    test_errors: dict[int, float] = dict(zip(*run.curve("test_error"), strict=True))
    values = (int(steps[best]), float(errors[best]), test_errors.get(steps[best]))
    return dict(zip(columns, values, strict=True))


def as_flag(value: object) -> str:
    """Formats a value for a flag --config.FIELD=VALUE."""
    if isinstance(value, tuple | list):  # numbers of numpy have another repr
        return repr(tuple(float(v) if isinstance(v, float) else v for v in value))
    return str(value)


def describe_settings(config: FlatConfig) -> str:
    """Describes the training of a run in one line: data, steps, batch size, dtype and scopes."""
    decayed = dict(zip(WEIGHT_DECAY_ON, ("all parameters", "kernels only"), strict=True))
    scopes = {"global": "the whole batch", "device": "the images of each device"}
    parameters = decayed.get(config["weight_decay_on"], config["weight_decay_on"])
    return (
        f"{config['dataset.name']}, {counted(config['num_steps'], 'step')} of "
        f"{counted(config['batch_size'], 'image')}, {config['dtype']}; weight decay on "
        f"{parameters}; batch norm over {scopes.get(config['bn_scope'], config['bn_scope'])}"
    )


def write_runs(collection: RunCollection, directory: Path) -> Path:
    """Writes runs.csv, with one line per run of the sweep in `directory`; returns its path."""
    file = directory / "runs.csv"
    rows = run_rows(collection.runs_by_variant, read_plan(directory)[0], collection.damaged)
    write_atomically(file, as_csv(rows))
    return file


def write_tables(
    collection: RunCollection,
    directory: Path,
    pytorch: RunCollection | None = None,
    details: bool = False,
) -> list[Path]:
    """Writes table.md and table.csv; returns their paths.

    Args:
      collection: the runs. Below table.md there is a line for each damaged one.
      directory: directory for the files, which holds the sweep.json of the sweep.
      pytorch: finished runs of the same models in PyTorch.
      details: if True, table.md also has the training time and the device of each variant, and the
        settings of the runs.
    """
    pytorch = pytorch or RunCollection({})
    runs, pytorch_runs = collection.runs_by_variant, pytorch.runs_by_variant
    rows = result_rows(runs, read_plan(directory)[0], pytorch_runs)
    table = as_markdown(rows, details)
    if details:
        table += _settings_lines(runs, pytorch_runs)
    for name, reason in (collection.damaged | pytorch.damaged).items():
        table += f"\n{escape_markdown(f'{name} is left out: {reason}')}\n"
    files = [directory / "table.md", directory / "table.csv"]
    for file, content in zip(files, (table, as_csv(rows)), strict=True):
        write_atomically(file, content)
    return files


def _settings_lines(
    runs: Mapping[str, Sequence[Run]], pytorch_runs: Mapping[str, Sequence[Run]]
) -> str:
    """Returns a paragraph for each of the settings, the ones that only PyTorch runs have last."""
    settings = list(_all_settings(runs))
    settings += [
        f"PyTorch: {other}" for other in _all_settings(pytorch_runs) if other not in settings
    ]
    return "".join(f"\n{escape_markdown(line)}\n" for line in settings)


def _all_settings(runs: Mapping[str, Sequence[Run]]) -> dict[str, None]:
    """Returns the settings of runs as keys, in their order, each once."""
    return {describe_settings(run.config): None for group in runs.values() for run in group}
