"""Profile of a train step on an accelerator: kernels, gaps between them, and bytes moved.

python -m benchmarks.kernels --config=configs/cifar10.py:resnet-20 --config.dtype=bfloat16

Records one dispatch with JAX's profiler and reads the timeline of the device. A CPU has no such
timeline.
"""

from __future__ import annotations

import collections
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.flaxres_worker import IMAGES, image_shape
from benchmarks.report import print_table, write_json
from flaxres import cli
from flaxres.errors import UserError

MOST = flags.DEFINE_integer(
    "most", 15, "Number of kernels in the table, the slowest first.", lower_bound=1
)
JSON = flags.DEFINE_string(
    "json", None, "File for the result as JSON, which is printed otherwise; such as kernels.json."
)

MAX_NAME_LENGTH = 90  # of a kernel in the table
Event = dict[str, Any]


def device_events(directory: Path) -> list[Event]:
    """Reads the kernels that a profile recorded.

    Args:
      directory: directory that the profiler wrote to.

    Returns:
      Events with 'name', and 'ts' and 'dur' in microseconds, in order of time.

    Raises:
      UserError: there are no kernels.
    """
    (path,) = directory.rglob("*.trace.json.gz")
    events: list[Event] = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    process_names, thread_names = {}, {}
    for event in events:
        if event.get("name") == "process_name":
            process_names[event["pid"]] = event["args"]["name"]
        elif event.get("name") == "thread_name":
            thread_names[event["pid"], event["tid"]] = event["args"]["name"]
    kernels = [
        event
        for event in events
        if event.get("ph") == "X"
        and "/device:" in process_names.get(event["pid"], "")
        and "CPU" not in process_names[event["pid"]]
        and "Stream" in thread_names.get((event["pid"], event["tid"]), "Stream")
    ]
    if not kernels:
        raise UserError("the profile has no kernels of an accelerator; run this on a GPU")
    return sorted(kernels, key=lambda event: event["ts"])


def summarize_timeline(kernels: list[Event]) -> dict[str, float]:
    """Returns the microseconds between the first and last kernel: total, busy and in gaps."""
    start = end = kernels[0]["ts"]
    gaps = 0.0
    for kernel in kernels:
        gaps += max(0.0, kernel["ts"] - end)
        end = max(end, kernel["ts"] + kernel["dur"])
    return {"total": end - start, "gaps": gaps, "busy": end - start - gaps}


def main() -> None:
    """Profiles one dispatch, prints a table and writes the results."""
    import jax

    from experiments.sweeps.throughput import Steps, random_dataset

    steps = Steps(cli.get_config(), random_dataset(image_shape(), 10, IMAGES.value))
    steps.compile()
    for _ in range(2):
        steps.advance()
    steps.wait()
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory, create_perfetto_trace=False):
            steps.advance()
            steps.wait()
        kernels = device_events(Path(directory))
    timeline = summarize_timeline(kernels)
    microseconds_by_name: dict[str, float] = collections.defaultdict(float)
    calls: collections.Counter[str] = collections.Counter()
    for kernel in kernels:
        microseconds_by_name[kernel["name"]] += kernel["dur"]
        calls[kernel["name"]] += 1
    slowest = sorted(microseconds_by_name.items(), key=lambda item: -item[1])[: MOST.value]
    rows = [
        [
            name[:MAX_NAME_LENGTH],
            f"{calls[name] / steps.size:.2f}",
            f"{microseconds / steps.size:.1f}",
        ]
        for name, microseconds in slowest
    ]
    print_table("kernels", ("", "calls/step", "microseconds/step"), rows)
    result = {
        "device": jax.devices()[0].device_kind,
        "steps": steps.size,
        "kernels_per_step": len(kernels) / steps.size,
        "microseconds_per_step": {name: time / steps.size for name, time in timeline.items()},
        "bytes_per_step": steps.cost().get("bytes accessed", 0.0) / steps.size,
    }
    write_json(JSON.value, result)


if __name__ == "__main__":
    cli.define_config("configs/cifar10.py:resnet-20")
    cli.run(main)
