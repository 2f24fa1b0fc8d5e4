"""Several seeds in one program (vmap) against several processes, on one device or CPU.

python -m benchmarks.replicas --config=configs/digits.py:resnet-20 --replicas=2

Measures images per second over all seeds, in rounds that take each way in turn: one seed alone,
k seeds by vmap in one program, and k processes of one seed at the same time (on a CPU each keeps to
its share of the cores). Prints medians over the rounds with their spread, and the ratios.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
from absl import flags

from experiments.sweeps.throughput import make_step, steps_per_second
from flaxres import cli

REPLICAS = flags.DEFINE_integer("replicas", 2, "Seeds at the same time.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds that take each way in turn.")
SECONDS = flags.DEFINE_float("seconds", 3.0, "Of steps, in each round and way.")
WORKER = flags.DEFINE_bool("worker", False, "One of the processes; started by the benchmark.")
cli.define_config("configs/digits.py:resnet-20")


def serve(config) -> None:
    """A worker process: for each line on standard input, measures and prints a line."""
    advance = make_step(config)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(config.batch_size * steps_per_second(advance, SECONDS.value), flush=True)


def start_workers(k: int) -> list[subprocess.Popen]:
    """Processes that measure one seed each; on a CPU with an equal share of the cores."""
    from flaxres.cpu import runs_on_cpu

    cores = sorted(os.sched_getaffinity(0))
    workers = []
    for i in range(k):
        command = [sys.executable, "-m", "benchmarks.replicas", *sys.argv[1:], "--worker"]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if runs_on_cpu():
            os.sched_setaffinity(worker.pid, cores[i::k] or cores)
        workers.append(worker)
    for worker in workers:
        worker.stdout.readline()
    return workers


def ask(workers: list[subprocess.Popen]) -> float:
    """Sum of the workers' speeds, all at work at the same time."""
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    return sum(float(worker.stdout.readline()) for worker in workers)


def main() -> None:
    """Runs the rounds and prints one JSON object."""
    config = cli.get_config()
    if WORKER.value:
        serve(config)
        return
    import jax

    k = REPLICAS.value
    one = make_step(config)
    config.num_replicas = k
    together = make_step(config)
    workers = start_workers(k)
    speeds = {"one": [], "vmap": [], "processes": []}
    for _ in range(ROUNDS.value):
        speeds["one"].append(config.batch_size * steps_per_second(one, SECONDS.value))
        speeds["vmap"].append(k * config.batch_size * steps_per_second(together, SECONDS.value))
        speeds["processes"].append(ask(workers))
    for worker in workers:
        worker.stdin.close()
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
    print(json.dumps(result))


if __name__ == "__main__":
    cli.run(main)
