"""Several seeds in one program (vmap) compared with several processes on the same device.

python -m benchmarks.replicas --config=configs/digits.py:resnet-20 --replicas=2

Measures images per second, summed over seeds. Each round measures one seed, k seeds in one program
with vmap, and k concurrent processes with one seed each (on a CPU with an equal share of the cores
each). Prints medians and ranges over the rounds, and the ratio of the last two.
"""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from benchmarks.process import open_pipe, share_gpu
from benchmarks.report import Spread, print_table, write_json
from flaxres import cli
from flaxres.errors import UserError
from flaxres.experiments.sweeps.throughput import make_step, steps_per_second

REPLICAS = flags.DEFINE_integer(
    "replicas", 2, "Number of seeds trained at the same time.", lower_bound=1
)
ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "Number of rounds; each measures all three ways.", lower_bound=1
)
SECONDS = flags.DEFINE_float("seconds", 3.0, "Seconds of steps per round and way.", lower_bound=0)
JSON = flags.DEFINE_string(
    "json", None, "File for the JSON result, e.g. replicas.json (default: print it)."
)
WORKER = flags.DEFINE_bool("worker", False, "Internal: run as one of the worker processes.")
cli.define_config("configs/digits.py:resnet-20")


def serve(config: ConfigDict) -> None:
    """Runs a worker: for each line on standard input, measures and prints images per second."""
    advance = make_step(config)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(config.batch_size * steps_per_second(advance, SECONDS.value), flush=True)


def start_workers(count: int) -> list[subprocess.Popen[str]]:
    """Starts `count` workers with one seed each; on a CPU, each has an equal share of the cores."""
    from flaxres.cpu import runs_on_cpu

    cores = sorted(os.sched_getaffinity(0))
    workers = []
    for i in range(count):
        command = [sys.executable, "-m", "benchmarks.replicas", *sys.argv[1:], "--worker"]
        worker = subprocess.Popen(
            command,
            env={**os.environ, **share_gpu()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if runs_on_cpu():
            os.sched_setaffinity(worker.pid, cores[i::count] or cores)
        workers.append(worker)
    for worker in workers:
        _read_line(worker)
    return workers


def _read_line(worker: subprocess.Popen[str]) -> str:
    """Reads a line of a worker, which prints its errors itself.

    Raises:
      UserError: the worker has ended.
    """
    line = open_pipe(worker.stdout).readline()
    if not line:
        raise UserError(f"a process with one seed ended with exit code {worker.wait()} (see above)")
    return line


def measure_workers(workers: list[subprocess.Popen[str]]) -> float:
    """Returns the images per second of all workers, measured at the same time and summed."""
    for worker in workers:
        stdin = open_pipe(worker.stdin)
        stdin.write("\n")
        stdin.flush()
    return sum(float(_read_line(worker)) for worker in workers)


def main() -> None:
    """Runs the rounds, prints a table and writes one JSON object."""
    config = cli.get_config()
    if WORKER.value:
        serve(config)
        return
    os.environ.update(share_gpu())  # JAX's backend has not started yet
    import jax

    k = REPLICAS.value
    advance_one = make_step(config)
    config.num_replicas = k
    advance_replicas = make_step(config)
    workers = start_workers(k)
    speeds: dict[str, list[float]] = {"one": [], "vmap": [], "processes": []}
    batch_size, seconds = config.batch_size, SECONDS.value
    for _ in range(ROUNDS.value):
        speeds["one"].append(batch_size * steps_per_second(advance_one, seconds))
        speeds["vmap"].append(k * batch_size * steps_per_second(advance_replicas, seconds))
        speeds["processes"].append(measure_workers(workers))
    for worker in workers:
        open_pipe(worker.stdin).close()
        worker.wait()
    ratios = np.array(speeds["vmap"]) / np.array(speeds["processes"])
    result = {
        "device": jax.devices()[0].device_kind,
        "replicas": k,
        "images_per_second": {
            name: {"median": round(np.median(v)), "min": round(min(v)), "max": round(max(v))}
            for name, v in speeds.items()
        },
        "vmap_over_processes": {
            "median": round(float(np.median(ratios)), 2),
            "min": round(float(ratios.min()), 2),
            "max": round(float(ratios.max()), 2),
        },
    }
    names = {"one": "one seed", "vmap": f"{k} seeds, vmap", "processes": f"{k} processes"}
    rows = [(names[name], Spread.from_values(values)) for name, values in speeds.items()]
    print_table(f"{result['device']}, batch size {batch_size}", ("", "images/s"), rows)
    write_json(JSON.value, result)


if __name__ == "__main__":
    cli.run(main)
