"""Profiles in the format of JAX's profiler, as GPUs and TPUs write them."""

import gzip
import json

import pytest

from flaxres.errors import UserError


@pytest.fixture
def kernels(isolated_flags):
    from benchmarks import kernels

    return kernels


def write_trace(directory, device, threads):
    """Writes a profile of two devices and the host.

    Args:
      directory: directory of the profile.
      device: name of the devices without their number, such as 'GPU'.
      threads: by name of a thread of the devices, (name, start, duration) of its events.
    """
    events = [
        {"ph": "M", "pid": 701, "name": "process_name", "args": {"name": "/host:CPU"}},
        {"ph": "M", "pid": 701, "name": "process_sort_index", "args": {"sort_index": 701}},
        {"ph": "M", "pid": 701, "tid": 5, "name": "thread_name", "args": {"name": "python"}},
        {"ph": "X", "pid": 701, "tid": 5, "name": "PjitFunction", "ts": 0.0, "dur": 99.0},
    ]
    for number in (1, 0):
        pid = 2 + number
        name = f"/device:{device}:{number}"
        events.append({"ph": "M", "pid": pid, "name": "process_name", "args": {"name": name}})
        for tid, (thread, spans) in enumerate(threads.items()):
            names = {"args": {"name": thread}}
            events.append({"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", **names})
            events += [
                {"ph": "X", "pid": pid, "tid": tid, "name": name, "ts": start, "dur": duration}
                for name, start, duration in spans
            ]
    events.append({})  # JAX's profiler ends the list with an empty event
    path = directory / "plugins" / "profile" / "2026_11_26" / "host.trace.json.gz"
    path.parent.mkdir(parents=True)
    trace = {"displayTimeUnit": "ns", "metadata": {}, "traceEvents": events}
    path.write_bytes(gzip.compress(json.dumps(trace).encode()))


def names(events):
    return [event["name"] for event in events]


def test_kernels_of_a_gpu_are_those_of_its_streams(tmp_path, kernels):
    threads = {
        "Stream #14(Compute,MemcpyD2D)": [("conv", 20.0, 5.0), ("add", 10.0, 2.0)],
        "Stream #16(MemcpyH2D)": [("MemcpyH2D", 1.0, 1.0)],
        "XLA Modules": [("jit_train_steps(1)", 10.0, 15.0)],
        "XLA Ops": [("fusion.1", 10.0, 2.0), ("cudnn-conv.2", 20.0, 5.0)],
        "Framework Ops": [("add", 10.0, 2.0)],
        "Launch Stats": [("add", 10.0, 2.0)],
    }
    write_trace(tmp_path, "GPU", threads)
    events = kernels.device_events(tmp_path)
    assert names(events) == ["MemcpyH2D", "add", "conv"]
    assert kernels.summarize_timeline(events) == {"total": 24.0, "gaps": 16.0, "busy": 8.0}


def test_operations_of_a_tpu_are_counted_once(tmp_path, kernels):
    threads = {
        "Steps": [("0", 9.0, 20.0)],
        "XLA Modules": [("jit_train_steps(1)", 9.0, 20.0)],
        "XLA Ops": [
            ("while.7", 10.0, 18.0),
            ("fusion.1", 10.0, 4.0),
            ("fusion.2", 15.0, 3.0),
            ("fusion.1", 20.0, 4.0),
            ("fusion.2", 25.0, 3.0),
            ("copy.3", 28.0, 1.0),
        ],
        "Async XLA Ops": [("copy-start.4", 12.0, 9.0)],
        "Framework Ops": [("conv_general_dilated", 10.0, 4.0)],
    }
    write_trace(tmp_path, "TPU", threads)
    events = kernels.device_events(tmp_path)
    assert names(events) == ["fusion.1", "fusion.2", "fusion.1", "fusion.2", "copy.3"]
    assert kernels.summarize_timeline(events) == {"total": 19.0, "gaps": 4.0, "busy": 15.0}


def test_overlapping_kernels_have_no_gap(kernels):
    events = [{"ts": 0.0, "dur": 10.0}, {"ts": 2.0, "dur": 3.0}, {"ts": 12.0, "dur": 1.0}]
    assert kernels.summarize_timeline(events) == {"total": 13.0, "gaps": 2.0, "busy": 11.0}


def test_profile_of_a_cpu(tmp_path, kernels):
    write_trace(tmp_path, "CPU", {"XLA Ops": [("fusion.1", 10.0, 2.0)]})
    with pytest.raises(UserError, match="no kernels of an accelerator"):
        kernels.device_events(tmp_path)


def test_setting_of_cuda_graphs(kernels):
    flag = "--xla_enable_command_buffers_during_profiling"
    assert kernels.graphs_setting("tpu", f"{flag}=true") is None
    assert kernels.graphs_setting("gpu", "--xla_gpu_autotune_level=0") == "off"
    assert kernels.graphs_setting("gpu", f"--xla_gpu_autotune_level=0 {flag}=true") == "kept"
    assert kernels.graphs_setting("gpu", flag) == "kept"
    assert kernels.graphs_setting("gpu", f"{flag}=true {flag}=false") == "off"
