"""Kills a run at random moments, damages its checkpoints, and compares it with an undisturbed run.

python tools/kill_runs.py /tmp/kills --kills=20 --config=configs/digits.py:resnet-20

Trains WORKDIR/undisturbed once. Then trains WORKDIR/killed with the same config, kills it with
SIGKILL at a random moment (also while it starts or saves) and reruns its command, until it has been
killed --kills times and finishes. After every --damage_every-th kill it flips a random bit of the
newest checkpoint. At the end, metrics and arrays must be equal bit for bit (`compare_runs`). The
moments depend on --seed and on the machine. The exit code is 0 if the runs are equal.

All other flags are those of flaxres.main.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from compare_runs import checkpoint_steps, differences, read_arrays, read_records

START_SECONDS = 6.0  # in which a process starts
MAX_DELAY = 0.3  # seconds between a record and the kill: during steps, or during a save


def train(workdir: Path, flags: list[str], kill: Callable[[], bool] = lambda: False) -> int | None:
    """Trains a run.

    Args:
      workdir: directory of the run.
      flags: further flags of flaxres.main.
      kill: called every hundredth of a second; the process is killed once it returns True.

    Returns:
      The exit code, or None if the process was killed.
    """
    command = [sys.executable, "-m", "flaxres.main", f"--workdir={workdir}", *flags]
    with (workdir.parent / f"{workdir.name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None and not kill():
            time.sleep(0.01)
        if process.returncode is None:
            process.kill()
            process.wait()
            return None
        return process.returncode


def last_step(workdir: Path) -> int:
    """Returns the last step with a record; 0 without one."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    complete = [line for line in lines if line.endswith("\n")]
    return json.loads(complete[-1])["step"] if complete else 0


def random_moment(
    generator: random.Random, workdir: Path, num_steps: int, kills: int
) -> Callable[[], bool]:
    """Returns a function that is True from a random moment on.

    Every fourth moment is in the first seconds of the process. The others are a random time after a
    random step, chosen so that `kills` of them come before the last step.

    Args:
      generator: source of the moments.
      workdir: directory of the run.
      num_steps: steps of the whole run.
      kills: number of kills that are left.
    """
    start = time.monotonic()
    if generator.random() < 0.25:
        seconds = generator.uniform(0, START_SECONDS)
        return lambda: time.monotonic() > start + seconds
    done = last_step(workdir)
    step = done + generator.uniform(0, (num_steps - done) / (kills + 1))
    delay = generator.uniform(0, MAX_DELAY)
    reached: list[float] = []

    def is_due() -> bool:
        if not reached and last_step(workdir) > step:
            reached.append(time.monotonic())
        return bool(reached) and time.monotonic() > reached[0] + delay

    return is_due


def flip_a_bit(workdir: Path, generator: random.Random) -> str | None:
    """Flips one bit in the newest of several checkpoints; returns its file, or None without one."""
    steps = checkpoint_steps(workdir)
    if len(steps) < 2:  # a run whose only checkpoint is damaged stops, and rightly so
        return None
    directory = workdir / "checkpoints" / str(max(steps)) / "state"
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    file = generator.choice([path for path in files if path.stat().st_size > 0])
    content = bytearray(file.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    file.write_bytes(content)
    return str(file.relative_to(workdir))


def main() -> int:
    """Runs the comparison and prints a line for each kill."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--damage_every", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options, flags = parser.parse_known_args()
    options.workdir.mkdir(parents=True, exist_ok=True)
    undisturbed, killed = (options.workdir / name for name in ("undisturbed", "killed"))
    if code := train(undisturbed, flags):
        print(f"error: the undisturbed run ended with exit code {code}", file=sys.stderr)
        return 2
    num_steps = last_step(undisturbed)
    generator = random.Random(options.seed)
    for kill in range(1, options.kills + 1):
        moment = random_moment(generator, killed, num_steps, options.kills - kill + 1)
        if (code := train(killed, flags, moment)) is not None:
            print(f"error: exit code {code} before kill {kill}; choose more steps", file=sys.stderr)
            return 2
        print(f"kill {kill} after step {last_step(killed)}", flush=True)
        if kill % options.damage_every == 0 and (file := flip_a_bit(killed, generator)):
            print(f"flipped a bit of {file}", flush=True)
    if code := train(killed, flags):
        print(f"error: the killed run ended with exit code {code}", file=sys.stderr)
        return 1
    found = differences(undisturbed, killed)
    size = (
        f"{len(read_records(killed, 'metrics.jsonl'))} records, {len(read_arrays(killed))} arrays"
    )
    print("\n".join(found) or f"equal after {options.kills} kills: {size}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
