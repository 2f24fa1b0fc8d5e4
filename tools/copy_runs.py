"""Makes a sweep of many runs by copying one, to measure reports and tables of large sweeps.

python tools/copy_runs.py runs/digits/resnet-8-seed0 /tmp/many --runs=200
/usr/bin/time -v python -m experiments.report --workdir=/tmp/many

Every copy has another learning rate and seed, and losses and errors that are scaled at random. The
copies are in DIR/VARIANT/seed-N, with a sweep.json; four seeds belong to one variant.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

SEEDS = 4  # runs of a variant


def copy_runs(source: Path, directory: Path, num_runs: int) -> None:
    """Writes `num_runs` copies of the run in `source` to a new directory of a sweep."""
    config = json.loads((source / "config.json").read_text())
    records = [json.loads(line) for line in (source / "metrics.jsonl").read_text().splitlines()]
    plan = {}
    numbers = random.Random(0)
    for number in range(num_runs):
        variant, seed = divmod(number, SEEDS)
        fields = {"learning_rate": round(0.4 * 0.95**variant, 6), "seed": seed}
        run = directory / f"variant-{variant}" / f"seed-{seed}"
        run.mkdir(parents=True)
        (run / "config.json").write_text(json.dumps(config | fields))
        (run / "info.json").write_bytes((source / "info.json").read_bytes())
        plan[f"{run.parent.name}/{run.name}"] = fields
        factor = numbers.uniform(0.5, 1)
        lines = (json.dumps(_scale(record, factor, numbers)) for record in records)
        (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (directory / "sweep.json").write_text(json.dumps(plan))


def _scale(record: dict[str, float], factor: float, numbers: random.Random) -> dict[str, float]:
    """Returns a record whose losses and errors are at most as large."""
    return {
        name: value * factor * numbers.uniform(0.9, 1)
        if name.endswith(("_loss", "_error"))
        else value
        for name, value in record.items()
    }


def main() -> None:
    """Parses the command line and copies the run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="Directory of the run to copy.")
    parser.add_argument("directory", type=Path, help="New directory of the sweep.")
    parser.add_argument("--runs", type=int, default=200, help="Number of copies (default: 200).")
    arguments = parser.parse_args()
    if not (arguments.run / "metrics.jsonl").is_file():
        parser.error(f"{arguments.run} must be a run with metrics.jsonl")
    if arguments.directory.exists():
        parser.error(f"{arguments.directory} exists; name a new directory")
    copy_runs(arguments.run, arguments.directory, arguments.runs)


if __name__ == "__main__":
    main()
