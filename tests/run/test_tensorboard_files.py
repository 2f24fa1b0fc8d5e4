import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter

from flaxres.run.tensorboard_files import EventFile


def read_records(path):
    """Returns the contents of the records of an event file, without a check of the checksums."""
    data, records = path.read_bytes(), []
    while data:
        length = int.from_bytes(data[:8], "little")
        records.append(data[12 : 12 + length])
        data = data[16 + length :]
    return records


@pytest.fixture
def written(tmp_path):
    file = EventFile(tmp_path)
    file.write_restart(301)
    file.write_scalars(400, {"train_loss": 0.5, "größe/1": -3e-40, "images_per_second": 123456.0})
    file.write_scalars(2**40, {})
    file.close()
    (path,) = tmp_path.glob("events.out.tfevents.*")
    return path


def test_events_have_the_fields_of_the_protocol_buffers(written):
    events = [event_pb2.Event.FromString(record) for record in read_records(written)]
    version, restart, scalars, empty = events
    assert version.file_version == "brain.Event:2"
    assert restart.step == 301
    assert restart.session_log.status == event_pb2.SessionLog.START
    assert scalars.step == 400
    values = {value.tag: value.simple_value for value in scalars.summary.value}
    assert values == pytest.approx(
        {"train_loss": 0.5, "größe/1": -3e-40, "images_per_second": 123456}
    )
    assert empty.step == 2**40
    assert all(abs(event.wall_time - written.stat().st_mtime) < 60 for event in events)


def test_records_and_checksums_are_those_of_tensorboardx(written, tmp_path):
    expected = RecordWriter(str(tmp_path / "expected"))
    for record in read_records(written):
        expected.write(record)
    expected.close()
    assert written.read_bytes() == (tmp_path / "expected").read_bytes()


def test_a_record_is_in_the_file_at_once(tmp_path):
    file = EventFile(tmp_path)
    file.write_scalars(1, {"train_loss": 0.5})
    (path,) = tmp_path.iterdir()
    assert len(read_records(path)) == 2
    file.close()
