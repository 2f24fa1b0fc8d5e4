"""Profile of a train step on a GPU or TPU: kernels, gaps between them, and bytes moved.

python -m benchmarks.kernels --config=configs/cifar10.py:resnet-20 --config.dtype=bfloat16

Records one dispatch with JAX's profiler and reads the timeline of the first device: the kernels of
a GPU, or the operations of a TPU. A CPU has no such timeline.

While the profiler runs, XLA launches the kernels of CUDA graphs one by one, so the gaps are longer
than in training. With --cuda_graphs it keeps the graphs. The result names the setting.
"""

from __future__ import annotations

import collections
import gzip
import json
import os
import re
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
    "json", None, "File for the JSON result, e.g. kernels.json (default: print it)."
)

CUDA_GRAPHS = flags.DEFINE_bool(
    "cuda_graphs", False, "Keep CUDA graphs while profiling; XLA does not by default."
)

MAX_NAME_LENGTH = 90  # of a kernel in the table
GRAPHS_FLAG = "--xla_enable_command_buffers_during_profiling"  # of XLA; false by default
DEVICE = re.compile(r"/device:(?!CPU)\w+:\d+")  # a process of the profile
# Threads of such a process, by the beginning of their names. A GPU has one for each stream, with
# the kernels. A TPU has one for the operations, and others that show the same time as modules and
# steps; a GPU has those as well.
STREAM, OPERATIONS = "Stream", "XLA Ops"
Event = dict[str, Any]


def device_events(directory: Path) -> list[Event]:
    """Reads the kernels or operations of the first device that a profile recorded.

    Args:
      directory: directory that the profiler wrote to.

    Returns:
      Events with 'name', and 'ts' and 'dur' in microseconds, in order of time. Operations of a TPU
      that contain others, such as loops, are left out.

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
    devices = sorted((name, pid) for pid, name in process_names.items() if DEVICE.fullmatch(name))
    for _, device in devices:
        by_thread: dict[str, list[Event]] = collections.defaultdict(list)
        for event in events:
            if event.get("ph") == "X" and event["pid"] == device:
                by_thread[thread_names.get((device, event["tid"]), "")].append(event)
        kernels = [
            event
            for thread, thread_events in by_thread.items()
            if thread.startswith(STREAM)
            for event in thread_events
        ] or _innermost(by_thread[OPERATIONS])
        if kernels:
            return sorted(kernels, key=lambda event: event["ts"])
    raise UserError("the profile has no kernels of an accelerator; run this on a GPU or TPU")


def _innermost(events: list[Event]) -> list[Event]:
    """Returns the events of a thread that contain no other event."""
    ordered = sorted(events, key=lambda event: (event["ts"], -event["dur"]))
    return [
        event
        for event, following in zip(ordered, [*ordered[1:], None], strict=True)
        if following is None or following["ts"] >= event["ts"] + event["dur"]
    ]


def summarize_timeline(kernels: list[Event]) -> dict[str, float]:
    """Returns the microseconds between the first and last kernel: total, busy and in gaps."""
    start = end = kernels[0]["ts"]
    gaps = 0.0
    for kernel in kernels:
        gaps += max(0.0, kernel["ts"] - end)
        end = max(end, kernel["ts"] + kernel["dur"])
    return {"total": end - start, "gaps": gaps, "busy": end - start - gaps}


def graphs_setting(platform: str, xla_flags: str) -> str | None:
    """Returns how a profile shows CUDA graphs: 'kept', or 'off' if kernels are launched one by one.

    Args:
      platform: JAX's platform; None is returned for others than 'gpu'.
      xla_flags: value of XLA_FLAGS; the last setting of the flag counts.
    """
    if platform != "gpu":
        return None
    values = re.findall(rf"{GRAPHS_FLAG}(?:=(\w+))?(?:\s|$)", xla_flags)
    return "kept" if values and values[-1].lower() in ("", "true", "1") else "off"


def main() -> None:
    """Profiles one dispatch, prints a table and writes the results."""
    if CUDA_GRAPHS.value:  # JAX's backend has not started yet
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {GRAPHS_FLAG}=true".strip()

    import jax

    from flaxres.experiments.sweeps.throughput import Steps, random_dataset

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
    graphs = graphs_setting(jax.default_backend(), os.environ.get("XLA_FLAGS", ""))
    title = "kernels" if graphs is None else f"kernels; CUDA graphs: {graphs}"
    print_table(title, ("", "calls/step", "microseconds/step"), rows)
    result = {
        "device": jax.devices()[0].device_kind,
        "steps": steps.size,
        "cuda_graphs": graphs,
        "kernels_per_step": len(kernels) / steps.size,
        "microseconds_per_step": {name: time / steps.size for name, time in timeline.items()},
        # XLA counts the body of a loop once, so the cost of a dispatch is that of one step.
        "bytes_per_step": steps.cost().get("bytes accessed") or None,  # None: unknown
    }
    write_json(JSON.value, result)


if __name__ == "__main__":
    cli.define_config("configs/cifar10.py:resnet-20")
    cli.run(main)
