"""What came out of a sweep: a line for each run, and a table of means over seeds."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from experiments.results.runs import Run, planned_runs
from flaxres.config import DECAYED

# What info.json says of a run that a table should hold.
INFO = ("params", "device", "devices", "processes", "jax", "flaxres", "commit")

# Test error in percent, He15 (arXiv 1512.03385), table 6; the paper gives no figures of plain nets.
PAPER_CIFAR10 = {
    "resnet-20": 8.75,
    "resnet-32": 7.51,
    "resnet-44": 7.17,
    "resnet-56": 6.97,
    "resnet-110": 6.61,  # mean of 5 runs, +- 0.16; the best is 6.43
    "resnet-1202": 7.93,
}


def result_rows(
    runs: dict[str, list[Run]],
    planned: Iterable[str] = (),
    peers: dict[str, list[Run]] | None = None,
) -> list[dict[str, object]]:
    """One row a net: params, seeds, steps, final errors in percent with mean and std over seeds.

    Errors are those of the last recorded step, never the best. Unfinished runs count only where a
    net has no finished one; `steps` then says how far it is.

    Args:
      runs: by net.
      planned: names of all runs of the sweep, NET/seed-N, for the seeds that are still missing.
      peers: finished runs of the same nets in PyTorch, by net.
    """
    seeds = Counter(name.rpartition("/")[0] for name in planned)
    rows = []
    for net, group in runs.items():
        done = [run for run in group if run.finished] or group
        row: dict[str, object] = {
            "net": net,
            "params": done[0].info.get("params"),
            "seeds": len(done),
            "planned_seeds": max(seeds[net], len(group)),
            "steps": min(int(run.records[-1]["step"]) for run in done),
            "num_steps": done[0].config["num_steps"],
        }
        for metric in ("train_error", "test_error"):
            row |= _mean_and_std(metric, done, metric)
        row["minutes"] = float(np.mean([run.train_seconds() for run in done])) / 60
        row["device"] = ", ".join(sorted({str(run.info.get("device", "?")) for run in done}))
        if peers:
            own = [run for run in peers.get(net, []) if run.finished]
            row |= {"peer_seeds": len(own), **_mean_and_std("peer_test_error", own, "test_error")}
        if _is_cifar10_test(done[0].config):
            row["paper_test_error"] = PAPER_CIFAR10.get(net)
        rows.append(row)
    for net in [net for net in seeds if net not in runs]:
        rows.append(dict.fromkeys(rows[0]) | {"net": net, "seeds": 0, "planned_seeds": seeds[net]})
    return rows


def _mean_and_std(name: str, runs: list[Run], metric: str) -> dict[str, float | None]:
    """The last values of `metric`: mean over runs, and standard deviation of a sample (n - 1)."""
    last = [value for run in runs if (value := run.last(metric)) is not None]
    mean = float(np.mean(last)) if last else None
    return {name: mean, f"{name}_std": float(np.std(last, ddof=1)) if len(last) > 1 else None}


def _is_cifar10_test(config: dict[str, object]) -> bool:
    """The errors are on all images that the paper's are on, original or re-encoded."""
    if config.get("dataset.classes"):
        return False
    name = str(config["dataset.name"]).split(":")[0]
    return name in ("cifar10", "cifar10_jpeg") and config["dataset.test_split"] == "test"


def markdown(rows: list[dict[str, object]], details: bool = False) -> str:
    """The rows as a Markdown table; with `details` also the time of a run and its device."""
    header, *body = as_cells(rows, details)
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *body))


def as_cells(rows: list[dict[str, object]], details: bool = False) -> list[list[str]]:
    """The rows as they are shown: a header, then the cells of each; the first names the net."""
    peer = "peer_test_error" in rows[0]
    paper = any("paper_test_error" in row for row in rows)  # of these data sets, not of others
    header = ["net", "params", "steps", "final training error %", "final test error %"]
    header += ["PyTorch, same data: test error %"] * peer
    header += ["He15 test error % (64k iterations)"] * paper
    lines = [header + ["minutes a run", "device"] * details]
    for row in rows:
        steps = "not begun" if row["steps"] is None else f"{row['steps']:,}"
        if row["seeds"] and row["steps"] < row["num_steps"]:
            steps += f" of {row['num_steps']:,}"
        seeds = str(row["seeds"])
        if row["seeds"] < row["planned_seeds"]:
            seeds += f" of {row['planned_seeds']}"
        cells = [str(row["net"]), f"{row['params']:,}" if row["params"] else "", steps]
        cells += [_cell(row, metric, seeds) for metric in ("train_error", "test_error")]
        if peer:
            cells.append(_cell(row, "peer_test_error", str(row["peer_seeds"])))
        if paper:
            error = row.get("paper_test_error")
            cells.append(f"{error:.2f}" if error else "")
        if details:
            cells += (
                ["", ""] if row["minutes"] is None else [f"{row['minutes']:.1f}", row["device"]]
            )
        lines.append(cells)
    return lines


def _cell(row: dict[str, object], metric: str, seeds: str) -> str:
    mean, std = row[metric], row[f"{metric}_std"]
    cell = "" if mean is None else f"{mean:.2f}"
    cell += "" if std is None else f" ± {std:.2f}"
    return f"{cell} ({seeds} seeds)" if cell and seeds != "1" else cell


def run_rows(
    runs: dict[str, list[Run]], planned: dict[str, dict[str, object]]
) -> list[dict[str, object]]:
    """One row a run, also for those not begun: how it ended, then the fields of its config.

    Errors are in percent. The best step is that of the lowest validation error, where there is a
    validation split; the test error beside it is the one of that step.
    """
    rows = []
    for group in runs.values():
        for run in group:
            row = {
                "name": f"{run.variant}/seed-{run.config['seed']}",
                "net": run.variant,
                "seed": run.config["seed"],
                "state": "finished" if run.finished else "unfinished",
                "step": int(run.records[-1]["step"]),
                "final_train_error": run.last("train_error"),
                "final_test_error": run.last("test_error"),
                **_best_by_validation(run),
                "train_seconds": run.train_seconds(),
                "images_per_second": run.images_per_second(),
                **{field: run.info.get(field) for field in INFO},
            }
            rows.append(row | _fields(run.config))
    begun = {row["name"] for row in rows}
    for name, config in planned.items():
        if name not in begun:
            row = {"name": name, "net": name.rpartition("/")[0], "seed": config["seed"]}
            rows.append(row | {"state": "not begun", "step": 0} | _fields(config))
    return rows


def _fields(config: dict[str, object]) -> dict[str, object]:
    return {f"config.{field}": value for field, value in config.items()}


def _best_by_validation(run: Run) -> dict[str, object]:
    names = ("best_step", "best_validation_error", "test_error_at_best")
    steps, errors = run.curve("validation_error")
    if not len(steps):
        return dict.fromkeys(names)
    best = int(np.argmin(errors))
    test_error = dict(zip(*run.curve("test_error"), strict=True))[steps[best]]
    return dict(zip(names, (int(steps[best]), float(errors[best]), float(test_error)), strict=True))


def describe_settings(run: Run) -> str:
    """What a reader of the results has to know of how they were made."""
    config = run.config
    decayed = dict(zip(DECAYED, ("all parameters", "the kernels alone"), strict=True))
    scope = {"global": "the whole batch", "device": "each device's images"}
    return (
        f"{config['dataset.name']}, {config['num_steps']:,} iterations of {config['batch_size']} "
        f"images, {config['dtype']}; weight decay on {decayed[config['weight_decay_on']]}; batch "
        f"norm over {scope[config['bn_scope']]}"
    )


def write_runs(runs: dict[str, list[Run]], directory: Path) -> Path:
    """Writes runs.csv, a tidy table with a line for each run of a sweep; returns its path."""
    file = directory / "runs.csv"
    file.write_text(as_csv(run_rows(runs, planned_runs(directory))))
    return file


def write_tables(
    runs: dict[str, list[Run]],
    directory: Path,
    peers: dict[str, list[Run]] | None = None,
    details: bool = False,
) -> list[Path]:
    """Writes table.md and table.csv; returns their paths.

    Args:
      runs: by net.
      directory: for the files.
      peers: as in `result_rows`.
      details: also say how long a run took, where, and with which settings.
    """
    rows = result_rows(runs, planned_runs(directory), peers)
    table = markdown(rows, details)
    if details:
        table += f"\n{describe_settings(next(iter(runs.values()))[0])}\n"
    files = [directory / "table.md", directory / "table.csv"]
    for file, content in zip(files, (table, as_csv(rows)), strict=True):
        file.write_text(content)
    return files


def as_csv(rows: list[dict[str, object]]) -> str:
    """The rows as a CSV file, with a column for each key that any of them has."""
    text = io.StringIO()
    fields = dict.fromkeys(field for row in rows for field in row)
    writer = csv.DictWriter(text, fieldnames=list(fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
