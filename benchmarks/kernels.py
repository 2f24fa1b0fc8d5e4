"""What runs on an accelerator in a train step: kernels, gaps between them, bytes moved.

python -m benchmarks.kernels --config=configs/cifar10.py:resnet-20 --config.dtype=bfloat16

Records one dispatch with JAX's profiler and reads the device's timeline. On a CPU, where operations
are no kernels of a device, there is no such timeline.
"""

from __future__ import annotations

import collections
import gzip
import json
import tempfile
from pathlib import Path

from absl import flags

from benchmarks.flaxres_side import IMAGE, IMAGES
from benchmarks.report import show, write
from flaxres import cli
from flaxres.errors import UserError

MOST = flags.DEFINE_integer("most", 15, "Kernels in the table, those that take longest.")
JSON = flags.DEFINE_string("json", None, "File for the result.")


def device_events(directory: Path) -> list[dict]:
    """The kernels that a profile recorded, in order: name, ts and dur in microseconds.

    Raises:
      UserError: there are none.
    """
    (path,) = directory.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    processes, threads = {}, {}
    for event in events:
        if event.get("name") == "process_name":
            processes[event["pid"]] = event["args"]["name"]
        elif event.get("name") == "thread_name":
            threads[event["pid"], event["tid"]] = event["args"]["name"]
    kernels = [
        event
        for event in events
        if event.get("ph") == "X"
        and "/device:" in processes.get(event["pid"], "")
        and "CPU" not in processes[event["pid"]]
        and "Stream" in threads.get((event["pid"], event["tid"]), "Stream")
    ]
    if not kernels:
        raise UserError("the profile has no kernels of an accelerator; this needs a GPU")
    return sorted(kernels, key=lambda event: event["ts"])


def timeline(kernels: list[dict]) -> dict[str, float]:
    """Microseconds from the first kernel to the end of the last: in all, busy, and in gaps."""
    begin = end = kernels[0]["ts"]
    gaps = 0.0
    for kernel in kernels:
        gaps += max(0.0, kernel["ts"] - end)
        end = max(end, kernel["ts"] + kernel["dur"])
    return {"total": end - begin, "gaps": gaps, "busy": end - begin - gaps}


def main() -> None:
    """Profiles a dispatch, prints a table and one JSON object."""
    import jax

    from experiments.sweeps.throughput import Steps, random_dataset

    steps = Steps(cli.get_config(), random_dataset(tuple(map(int, IMAGE.value)), 10, IMAGES.value))
    steps.compile()
    for _ in range(2):
        steps.advance()
    steps.wait()
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory, create_perfetto_trace=False):
            steps.advance()
            steps.wait()
        kernels = device_events(Path(directory))
    times = timeline(kernels)
    by_name = collections.Counter()
    calls = collections.Counter()
    for kernel in kernels:
        by_name[kernel["name"]] += kernel["dur"]
        calls[kernel["name"]] += 1
    rows = [
        [name[:90], f"{calls[name] / steps.size:.2f}", f"{microseconds / steps.size:.1f}"]
        for name, microseconds in by_name.most_common(MOST.value)
    ]
    show("kernels", ("", "calls a step", "microseconds a step"), rows)
    result = {
        "device": jax.devices()[0].device_kind,
        "steps": steps.size,
        "kernels_per_step": len(kernels) / steps.size,
        "microseconds_per_step": {name: t / steps.size for name, t in times.items()},
        "bytes_per_step": steps.cost().get("bytes accessed", 0.0) / steps.size,
    }
    write(JSON.value, result)


if __name__ == "__main__":
    cli.define_config("configs/cifar10.py:resnet-20")
    cli.run(main)
