"""The table of a degradation experiment, as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from experiments.runs import Run

# Test error in percent, He15 (arXiv 1512.03385), table 6; the paper gives no figures of plain nets.
PAPER_CIFAR10 = {
    "resnet-20": 8.75,
    "resnet-32": 7.51,
    "resnet-44": 7.17,
    "resnet-56": 6.97,
    "resnet-110": 6.61,  # mean of 5 runs, +- 0.16; the best is 6.43
    "resnet-1202": 7.93,
}


def result_rows(runs: dict[str, list[Run]]) -> list[dict[str, object]]:
    """One row a net: params, seeds, steps, final errors in percent with mean and std over seeds.

    Errors are those of the last recorded step, never the best. Unfinished runs count only where a
    net has no finished one; `steps` then says how far it is.
    """
    rows = []
    for net, group in runs.items():
        done = [run for run in group if run.finished] or group
        row: dict[str, object] = {
            "net": net,
            "params": done[0].info.get("params"),
            "seeds": len(done),
            "steps": min(int(run.records[-1]["step"]) for run in done),
            "num_steps": done[0].config["num_steps"],
        }
        for metric in ("train_error", "test_error"):
            last = [values[-1] for run in done if len(values := run.curve(metric)[1])]
            row[metric] = float(np.mean(last)) if last else None
            row[f"{metric}_std"] = float(np.std(last, ddof=1)) if len(last) > 1 else None
        if _is_cifar10_test(done[0].config):
            row["paper_test_error"] = PAPER_CIFAR10.get(net)
        rows.append(row)
    return rows


def _is_cifar10_test(config: dict[str, object]) -> bool:
    """The errors are on the images that the paper's are on, original or re-encoded."""
    name = str(config["dataset.name"]).split(":")[0]
    return name in ("cifar10", "cifar10_jpeg") and config["dataset.test_split"] == "test"


def markdown(rows: list[dict[str, object]]) -> str:
    """The rows as a Markdown table."""
    paper = "paper_test_error" in rows[0]
    header = ["net", "params", "steps", "final training error %", "final test error %"]
    lines = [header + ["He15 test error % (64k iterations)"] * paper]
    for row in rows:
        steps = f"{row['steps']:,}"
        if row["steps"] < row["num_steps"]:
            steps += f" of {row['num_steps']:,}"
        cells = [str(row["net"]), f"{row['params']:,}" if row["params"] else "", steps]
        for metric in ("train_error", "test_error"):
            mean, std = row[metric], row[f"{metric}_std"]
            cells.append("" if mean is None else f"{mean:.2f}")
            cells[-1] += "" if std is None else f" ± {std:.2f} ({row['seeds']} seeds)"
        if paper:
            cells.append(f"{row['paper_test_error']:.2f}" if row["paper_test_error"] else "")
        lines.append(cells)
    lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def write_tables(runs: dict[str, list[Run]], directory: Path) -> list[Path]:
    """Writes table.md and table.csv; returns their paths."""
    rows = result_rows(runs)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files = [directory / "table.md", directory / "table.csv"]
    for file, content in zip(files, (markdown(rows), text.getvalue()), strict=True):
        file.write_text(content)
    return files
