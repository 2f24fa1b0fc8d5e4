"""Time of a train step by depth, batch size or number of devices.

python -m benchmarks.scaling --over=depth --values=20,56,110,218
python -m benchmarks.scaling --over=batch_size --values=32,64,128,256 --models=resnet-20
python -m benchmarks.scaling --over=num_devices --values=1,2,4 --models=resnet-20

Each value runs in a process of its own, and every round measures all of them. With
--over=num_devices, a CPU is split into virtual devices that share its cores.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from absl import flags

from benchmarks.implementations import (
    BATCH_SIZE,
    DTYPES,
    JSON,
    MODELS,
    ROUNDS,
    SECONDS,
    flaxres_command,
)
from benchmarks.process import Worker
from benchmarks.report import Spread, print_table, write_json
from flaxres import cli
from flaxres.cpu import runs_on_cpu
from flaxres.errors import UserError

OVER = flags.DEFINE_enum(
    "over", "depth", ["depth", "batch_size", "num_devices"], "Quantity to vary, such as depth."
)
VALUES = flags.DEFINE_list("values", ["20", "56", "110"], "Values of that quantity.")
FIELDS = flags.DEFINE_list(
    "fields", [], "Further config fields as FIELD=VALUE, such as dtype=bfloat16."
)


def worker_command(model: str, value: str) -> tuple[list[str], dict[str, str]]:
    """Returns the command of a worker and its additional environment variables.

    Args:
      model: model name; its depth is replaced with --over=depth.
      value: value of the quantity in --over.
    """
    fields: dict[str, Any] = dict(field.split("=", 1) for field in FIELDS.value)
    environment = {}
    if OVER.value == "depth":
        model = f"{model.split('-')[0]}-{value}"
    else:
        fields[OVER.value] = int(value)
    if OVER.value == "num_devices" and runs_on_cpu():
        environment["JAX_NUM_CPU_DEVICES"] = value
    return flaxres_command(model, DTYPES.value[0], **fields), environment


def measure(model: str) -> list[dict[str, Any]]:
    """Runs the rounds for one model, prints a table and returns one result for each value.

    Raises:
      UserError: a worker fails.
    """
    with contextlib.ExitStack() as stack:
        workers: list[Worker] = []
        for value in VALUES.value:
            try:
                workers.append(Worker(*worker_command(model, value)))
            except RuntimeError as error:
                raise UserError(f"{OVER.value} {value}: {error}") from None
            stack.callback(workers[-1].close)
        step_seconds: list[list[float]] = [[] for _ in workers]
        for _ in range(ROUNDS.value):
            for worker, seconds in zip(workers, step_seconds, strict=True):
                timed = worker.ask(steps={"seconds": SECONDS.value})
                seconds.append(timed["seconds"] / timed["steps"])
        results, rows = [], []
        for value, worker, seconds in zip(VALUES.value, workers, step_seconds, strict=True):
            batch_size = int(value) if OVER.value == "batch_size" else BATCH_SIZE.value
            memory = worker.ask(memory={})
            macs = 3 * worker.ask(layers={})["macs"] * batch_size  # forward and backward pass
            result = {
                "net": model,
                OVER.value: int(value),
                "step_seconds": Spread.from_values(seconds),
                "images_per_second": Spread.from_values([batch_size / s for s in seconds]),
                "nanoseconds_per_mac": Spread.from_values([1e9 * s / macs for s in seconds]),
                "compile_seconds": worker.ready["compile"],
                "memory_bytes": memory["device"] or memory["host"],
                "device": worker.ready["device"],
            }
            results.append(result)
            rows.append(
                [
                    value,
                    Spread.from_values(1e3 * np.array(seconds)),
                    result["images_per_second"],
                    result["nanoseconds_per_mac"],
                    f"{result['compile_seconds']:.1f}",
                    f"{result['memory_bytes'] / 2**20:,.0f}",
                ]
            )
        columns = (OVER.value, "step ms", "images/s", "ns/MAC", "compile s", "MiB")
        print_table(f"{model}, {workers[0].ready['device']}", columns, rows)
    return results


def main() -> None:
    """Measures all models, prints tables and writes the results."""
    cli.check_models(MODELS.value)
    write_json(JSON.value, [result for model in MODELS.value for result in measure(model)])


if __name__ == "__main__":
    cli.run(main, trains=False)
