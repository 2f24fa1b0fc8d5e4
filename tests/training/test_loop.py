"""Training loop: order of launches, records and checkpoints."""

import pytest

from flaxres.run.checkpoint import Checkpoints
from flaxres.run.metric_writers import MetricWriters
from flaxres.run.records import read_metrics
from flaxres.training import loop
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.dispatches import due, steps_per_dispatch
from flaxres.training.train import train_and_evaluate


def record_calls(monkeypatch, owner, name, events, to_event):
    """Makes each call of `owner.name` append `to_event(*args)` to `events`, unless it is None."""
    function = getattr(owner, name)

    def wrapped(*args, **kwargs):
        if (event := to_event(*args, **kwargs)) is not None:
            events.append(event)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize(("num_devices", "max_ahead"), [(1, 1), (1, 4), (2, 4)])
def test_the_next_dispatch_is_launched_before_a_record_is_fetched(
    tmp_path, config, monkeypatch, num_devices, max_ahead
):
    config.num_steps, config.boundaries = 6, ()
    config.log_every, config.eval_every, config.checkpoint_every = 2, 3, 6
    config.num_devices = num_devices
    events = []
    compile_train_steps = CompiledSteps.compile_train_steps

    def compiled(self, *args):
        steps = compile_train_steps(self, *args)

        def launch(state, arrays, rows):
            result = steps(state, arrays, rows)
            events.append("launch")
            return result

        return launch

    monkeypatch.setattr(CompiledSteps, "compile_train_steps", compiled)
    monkeypatch.setattr(loop, "MAX_AHEAD", max_ahead)
    record_calls(monkeypatch, CompiledSteps, "launch_evaluation", events, lambda *_: "evaluate")
    record_calls(monkeypatch, MetricWriters, "write", events, lambda _, records: records[0]["step"])
    record_calls(monkeypatch, loop, "Snapshot", events, lambda _: "copy")
    train_and_evaluate(config, tmp_path)
    assert events.pop(1) == "copy"  # after the first dispatch, which compiles the copy
    if num_devices == 1:
        assert events == [
            *("launch", "launch", "launch", "evaluate", 2, "launch", 3),
            *("launch", 4, "launch", "evaluate", "copy", 6),
        ]
    else:  # several CPU devices are synchronous, so nothing is launched ahead
        assert events == [
            *("launch", "launch", 2, "launch", "evaluate", 3),
            *("launch", 4, "launch", "launch", "evaluate", "copy", 6),
        ]


def test_records_are_on_disk_before_a_checkpoint_is_saved(tmp_path, config, monkeypatch):
    events = []

    def last_step(_):
        return "synced", max(record["step"] for record in read_metrics(tmp_path))

    record_calls(monkeypatch, MetricWriters, "sync", events, last_step)
    record_calls(monkeypatch, Checkpoints, "_save", events, lambda _, step, *__: ("save", step))
    train_and_evaluate(config, tmp_path)
    assert [event for event in events if event[0] == "save"] == [
        ("save", step) for step in (5, 10, 15, 20)
    ]
    assert [name for name, _ in events] == ["synced", "save"] * 4
    for (_, synced), (_, saved) in zip(events[::2], events[1::2], strict=True):
        assert synced >= max(step for step in (4, 8, 10, 12, 16, 20) if step <= saved)


def test_steps_per_dispatch_divides_all_periods(config):
    assert steps_per_dispatch(config, "cpu") == 1
    config.num_steps, config.log_every, config.eval_every = 600, 20, 100
    for checkpoint_every, max_steps, expected in (
        (40, 100, 20),
        (40, 8, 5),
        (7, 100, 1),
        (30, 10, 10),
    ):
        config.checkpoint_every, config.steps_per_dispatch = checkpoint_every, max_steps
        assert steps_per_dispatch(config, "gpu") == expected


def test_steps_per_dispatch_of_a_stream_fit_into_stream_gib(config):
    """A step of 256 images of 224 x 224 x 3 has 38,535,168 bytes; 1 GiB holds 8 x 3 of them."""
    config.num_steps, config.log_every, config.eval_every = 600, 60, 120
    config.checkpoint_every, step_bytes = 120, 256 * 224 * 224 * 3
    assert steps_per_dispatch(config, "tpu") == 60
    assert steps_per_dispatch(config, "tpu", step_bytes) == 3
    assert steps_per_dispatch(config, "tpu", 10**10) == 1
    assert steps_per_dispatch(config, "tpu", 1) == 60
    assert steps_per_dispatch(config, "cpu", step_bytes) == 1
    config.dataset.stream_gib = 2.0
    assert steps_per_dispatch(config, "tpu", step_bytes) == 6
    config.steps_per_dispatch = 20
    assert steps_per_dispatch(config, "tpu", step_bytes) == 20


def test_logs_evaluations_and_checkpoints_are_due(config):
    assert due(config, 3) == (False, False, False)
    assert due(config, 4) == (True, False, False)
    assert due(config, 5) == (False, False, True)
    assert due(config, 20) == (True, True, True)
