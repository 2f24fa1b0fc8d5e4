import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c  # noqa: F401 (the record format's module)

from flaxres.errors import WorkdirError
from flaxres.writers import MetricsFile, TensorBoardWriter, Terminal, read_metrics


def records(*steps):
    return [{"step": step, "train_loss": 1 / step} for step in steps]


def test_lines_can_be_read_while_the_file_is_open(tmp_path):
    file = MetricsFile(tmp_path, 0)
    for record in records(1, 3):
        file.write(record)
    assert read_metrics(tmp_path) == records(1, 3)
    file.sync()
    file.close()


def test_no_file(tmp_path):
    assert read_metrics(tmp_path) == []


def test_a_restart_takes_out_what_it_will_write_again(tmp_path):
    file = MetricsFile(tmp_path, 0)
    for record in records(1, 2, 3, 4):
        file.write(record)
    file.close()
    with (tmp_path / "metrics.jsonl").open("a") as cut:
        cut.write('{"step": 5, "train_')  # the process was killed here
    assert read_metrics(tmp_path) == records(1, 2, 3, 4)
    file = MetricsFile(tmp_path, 2)
    file.write(records(3)[0])
    file.close()
    assert read_metrics(tmp_path) == records(1, 2, 3)


def test_a_metrics_file_that_is_something_else(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("a,b\n1,2\n")
    with pytest.raises(WorkdirError, match="cannot be opened"):
        MetricsFile(tmp_path, 0)
    assert (tmp_path / "metrics.jsonl").read_text() == "a,b\n1,2\n"


def read_events(directory):
    """Scalars of a TensorBoard directory: (step, name) -> value."""
    scalars = {}
    for path in sorted(directory.glob("events*")):
        data = path.read_bytes()
        while data:  # records: length (8 bytes), its checksum (4), content, checksum (4)
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                scalars[event.step, value.tag] = value.simple_value
            data = data[16 + length :]
    return scalars


def test_tensorboard_gets_the_same_values(tmp_path):
    writer = TensorBoardWriter(tmp_path, 0)
    writer.write({"step": 10, "train_loss": 0.5, "test_error": 25.0})
    writer.close()
    scalars = read_events(tmp_path / "tensorboard")
    assert scalars == {(10, "train_loss"): 0.5, (10, "test_error"): 25.0}


def test_plain_lines_where_there_is_no_terminal(capsys):
    with Terminal("net", 20) as terminal:
        terminal.restart_clock(0)
        terminal.update(5, {"train_loss": 0.1, "train_error": 1.0})
        terminal.write(
            {
                "step": 10,
                "train_loss": 0.25,
                "train_error": 12.5,
                "test_error": 20.0,
                "images_per_second": 1234.5,
            }
        )
        terminal.say("a [note]")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "net  step 10/20  loss 0.2500  train error 12.50%  test error 20.00%  1,234 images/s"
        "  ETA 0:00:00",
        "a [note]",
    ]
