"""Compares two runs bit for bit: their logged metrics and the arrays of their newest checkpoints.

python tools/compare_runs.py runs/before runs/after

Use it around a change that must not alter training: train the same config with the old and the new
code on one machine, then compare. It reads the files by itself, so either version may be the old
one. The exit code is 0 if the runs are equal and 1 if they differ; timings are not compared.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

TIMINGS = ("images_per_second", "data_wait_percent")


def read_records(workdir: Path, name: str) -> list[dict]:
    """Reads a file of JSON lines without the timings; returns [] if there is none."""
    path = workdir / name
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in records]


def checkpoint_steps(workdir: Path) -> list[int]:
    """Returns the steps of the complete checkpoints of a run."""
    paths = (workdir / "checkpoints").glob("*")
    return [int(path.name) for path in paths if path.name.isdecimal()]


def read_arrays(workdir: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of the newest checkpoint, by path; returns {} if there is none."""
    steps = checkpoint_steps(workdir)
    if not steps:
        return {}
    directory = (workdir / "checkpoints" / str(max(steps)) / "state").absolute()
    tree = ocp.StandardCheckpointer().restore(directory)
    flat = traverse_util.flatten_dict(_as_dicts(tree))
    return {"/".join(path): np.asarray(leaf) for path, leaf in flat.items()}


def _as_dicts(tree: object) -> object:
    """Replaces lists by dicts, whose keys are positions."""
    if isinstance(tree, list | tuple):
        tree = {str(i): element for i, element in enumerate(tree)}
    if isinstance(tree, dict):
        return {str(name): _as_dicts(element) for name, element in tree.items()}
    return tree


def differences(one: Path, other: Path) -> list[str]:
    """Lists in what two runs differ, a line each; empty if they are equal."""
    found = []
    for name in ("metrics.jsonl", "layers.jsonl"):
        records = read_records(one, name), read_records(other, name)
        if len(records[0]) != len(records[1]):
            found.append(f"{name}: {len(records[0])} and {len(records[1])} records")
        for a, b in zip(*records, strict=False):
            found += [
                f"{name}, step {a['step']}: {field} is {a.get(field)} and {b.get(field)}"
                for field in a.keys() | b.keys()
                if a.get(field) != b.get(field)
            ]
    arrays = read_arrays(one), read_arrays(other)
    found += [f"checkpoint: only one has {name}" for name in arrays[0].keys() ^ arrays[1].keys()]
    for name in arrays[0].keys() & arrays[1].keys():
        a, b = arrays[0][name], arrays[1][name]
        if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():
            found.append(f"checkpoint: {name} differs")
    return found


def main(arguments: list[str]) -> int:
    """Prints the differences between two workdirs; returns the exit code."""
    if len(arguments) != 2:
        print("give two workdirs: python tools/compare_runs.py BEFORE AFTER", file=sys.stderr)
        return 2
    one, other = map(Path, arguments)
    for workdir in (one, other):
        if not (workdir / "metrics.jsonl").exists():
            print(f"error: {workdir} holds no run (metrics.jsonl)", file=sys.stderr)
            return 2
    found = differences(one, other)
    records, arrays = len(read_records(one, "metrics.jsonl")), len(read_arrays(one))
    print("\n".join(found) or f"equal: {records} records, {arrays} arrays")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
