import contextlib
import sys

import pytest
from tensorboardX.proto import event_pb2

from flaxres.errors import WorkdirError
from flaxres.run.metric_writers import (
    JsonLinesWriter,
    MetricWriters,
    TensorBoardWriter,
)
from flaxres.run.records import read_metrics


def make_records(*steps):
    return [{"step": step, "train_loss": 1 / step} for step in steps]


def test_lines_can_be_read_while_the_file_is_open(tmp_path):
    file = JsonLinesWriter(tmp_path, 0)
    for record in make_records(1, 3):
        file.write(record)
    assert read_metrics(tmp_path) == make_records(1, 3)
    file.sync()
    file.close()


def test_without_a_file_there_are_no_records(tmp_path):
    assert read_metrics(tmp_path) == []


def test_a_restart_removes_records_of_later_steps(tmp_path):
    file = JsonLinesWriter(tmp_path, 0)
    for record in make_records(1, 2, 3, 4):
        file.write(record)
    file.close()
    with (tmp_path / "metrics.jsonl").open("a") as incomplete:
        incomplete.write('{"step": 5, "train_')  # the process was killed here
    assert read_metrics(tmp_path) == make_records(1, 2, 3, 4)
    file = JsonLinesWriter(tmp_path, 2)
    file.write(make_records(3)[0])
    file.close()
    assert read_metrics(tmp_path) == make_records(1, 2, 3)


def test_other_content_in_the_metrics_file_is_rejected(tmp_path):
    for content in ("a,b\n1,2\n", '{"step": 1}\n{"loss": 1}\n', "[1]\n", '{"step": "1"}\n'):
        (tmp_path / "metrics.jsonl").write_text(content)
        with pytest.raises(WorkdirError, match=r"line [12].*; restore the file, or remove this"):
            JsonLinesWriter(tmp_path, 0)
        assert (tmp_path / "metrics.jsonl").read_text() == content


def read_events(directory):
    """Returns the scalars in a TensorBoard directory by (step, name)."""
    scalars = {}
    for path in sorted(directory.glob("events*")):
        data = path.read_bytes()
        while data:  # a record: length (8 bytes), its checksum (4), content, checksum (4)
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                scalars[event.step, value.tag] = value.simple_value
            data = data[16 + length :]
    return scalars


def test_tensorboard_receives_the_same_values(tmp_path):
    writer = TensorBoardWriter(tmp_path, 0)
    writer.write({"step": 10, "train_loss": 0.5, "test_error": 25.0})
    writer.close()
    scalars = read_events(tmp_path / "tensorboard")
    assert scalars == {(10, "train_loss"): 0.5, (10, "test_error"): 25.0}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard"])
def test_a_full_disk_raises_one_error(tmp_path, name):
    """/dev/full can be opened, but every write fails, as on a full disk."""

    def run():
        with MetricWriters([tmp_path], 0) as writers:
            full_disk = stack.enter_context(open("/dev/full", "wb", buffering=0))  # noqa: SIM115
            json_lines, tensorboard = writers._files[0]
            writer = tensorboard._file if name == "tensorboard" else json_lines
            writer._file.close()
            writer._file = full_disk
            writers.write([{"step": 1, "train_loss": 0.5}])

    with (
        contextlib.ExitStack() as stack,
        pytest.raises(WorkdirError, match=r"cannot be written \(No space left on device\)"),
    ):
        run()
