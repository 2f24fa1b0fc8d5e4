"""How the train step grows with depth, batch size or devices.

python -m benchmarks.scaling --over=depth --values=20,56,110,218
python -m benchmarks.scaling --over=batch_size --values=32,64,128,256 --models=resnet-20
python -m benchmarks.scaling --over=num_devices --values=1,2,4 --models=resnet-20

All values take turns, each in a process of its own. With --over=num_devices a CPU is split into as
many virtual devices as there are cores for, which share them.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from absl import flags

from benchmarks.process import Worker
from benchmarks.report import Spread, show, write
from benchmarks.train_step import BATCH_SIZE, JSON, MODELS, ROUNDS, SECONDS, flaxres_command
from flaxres import cli
from flaxres.cpu import runs_on_cpu
from flaxres.errors import UserError

OVER = flags.DEFINE_enum("over", "depth", ["depth", "batch_size", "num_devices"], "What grows.")
VALUES = flags.DEFINE_list("values", ["20", "56", "110"], "Its values.")
FIELDS = flags.DEFINE_list("fields", [], "Further fields of the config, FIELD=VALUE.")


def command(net: str, value: str) -> tuple[list[str], dict[str, str]]:
    """The worker's command and what it needs in its environment."""
    fields: dict[str, Any] = dict(field.split("=", 1) for field in FIELDS.value)
    environment = {}
    if OVER.value == "depth":
        net = f"{net.split('-')[0]}-{value}"
    else:
        fields[OVER.value] = int(value)
    if OVER.value == "num_devices" and runs_on_cpu():
        environment["JAX_NUM_CPU_DEVICES"] = value
    return flaxres_command(net, **fields), environment


def main() -> None:
    """Runs the rounds for each net."""
    results = []
    for net in MODELS.value:
        with contextlib.ExitStack() as stack:
            workers = []
            for value in VALUES.value:
                try:
                    workers.append(Worker(*command(net, value)))
                except RuntimeError as error:
                    raise UserError(f"{OVER.value} {value}: {error}") from None
                stack.callback(workers[-1].close)
            times = [[] for _ in workers]
            for _ in range(ROUNDS.value):
                for worker, own in zip(workers, times, strict=True):
                    done = worker.ask(steps={"seconds": SECONDS.value})
                    own.append(done["seconds"] / done["steps"])
            rows = []
            for value, worker, own in zip(VALUES.value, workers, times, strict=True):
                batch = int(value) if OVER.value == "batch_size" else BATCH_SIZE.value
                memory = worker.ask(memory={})
                result = {
                    "net": net,
                    OVER.value: int(value),
                    "step_seconds": Spread.of(own),
                    "images_per_second": Spread.of([batch / s for s in own]),
                    "nanoseconds_per_mac": Spread.of(
                        [1e9 * s / (3 * worker.ready["macs"] * batch) for s in own]
                    ),
                    "compile_seconds": worker.ready["compile"],
                    "memory_bytes": memory["device"] or memory["host"],
                    "device": worker.ready["device"],
                }
                results.append(result)
                rows.append(
                    [
                        value,
                        Spread.of(1e3 * np.array(own)),
                        result["images_per_second"],
                        result["nanoseconds_per_mac"],
                        f"{result['compile_seconds']:.1f}",
                        f"{result['memory_bytes'] / 2**20:,.0f}",
                    ]
                )
            columns = (OVER.value, "step ms", "images/s", "ns/MAC", "compile s", "MiB")
            show(f"{net}, {workers[0].ready['device']}", columns, rows)
    write(JSON.value, results)


if __name__ == "__main__":
    cli.run(main, trains=False)
