import gzip
import json

import pytest

from benchmarks.kernels import device_events, summarize_timeline
from flaxres.errors import UserError


def write_trace(directory, device):
    path = directory / "plugins" / "host.trace.json.gz"
    path.parent.mkdir()
    events = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": f"/device:{device}"}},
        {"ph": "M", "pid": 2, "name": "process_name", "args": {"name": "/host:CPU"}},
        {"ph": "M", "pid": 1, "tid": 7, "name": "thread_name", "args": {"name": "Stream #7"}},
        {"ph": "M", "pid": 1, "tid": 8, "name": "thread_name", "args": {"name": "XLA Ops"}},
        {"ph": "X", "pid": 1, "tid": 7, "name": "conv", "ts": 20.0, "dur": 5.0},
        {"ph": "X", "pid": 1, "tid": 7, "name": "add", "ts": 10.0, "dur": 2.0},
        {"ph": "X", "pid": 1, "tid": 8, "name": "fusion", "ts": 10.0, "dur": 15.0},
        {"ph": "X", "pid": 2, "tid": 1, "name": "python", "ts": 0.0, "dur": 99.0},
    ]
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode()))


def test_kernels_are_read_from_the_streams_of_the_device(tmp_path):
    write_trace(tmp_path, "GPU:0")
    kernels = device_events(tmp_path)
    assert [kernel["name"] for kernel in kernels] == ["add", "conv"]
    assert summarize_timeline(kernels) == {"total": 15.0, "gaps": 8.0, "busy": 7.0}


def test_overlapping_kernels_have_no_gap():
    kernels = [{"ts": 0.0, "dur": 10.0}, {"ts": 2.0, "dur": 3.0}, {"ts": 12.0, "dur": 1.0}]
    assert summarize_timeline(kernels) == {"total": 13.0, "gaps": 2.0, "busy": 11.0}


def test_profile_without_a_gpu(tmp_path):
    write_trace(tmp_path, "CPU:0")
    with pytest.raises(UserError, match="no kernels of an accelerator"):
        device_events(tmp_path)
