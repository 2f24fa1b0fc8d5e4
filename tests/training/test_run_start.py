"""Commands with another config than their workdir: extended, shortened and failed runs."""

import json
import shutil
import signal

import numpy as np
import pytest

from flaxres.errors import InterruptedRunError, WorkdirError
from flaxres.parallel.replicas import replica_runs
from flaxres.run.config_changes import ConfigChange, read_config_changes
from flaxres.run.failed_start import is_failed_start
from flaxres.run.records import read_metrics
from flaxres.run.workdir import open_workdir, read_run_config
from flaxres.training.run_start import find_run_start, replica_change
from flaxres.training.train import train_and_evaluate
from tests.conftest import small_config
from tests.training.test_train import final_digest, metrics, send_signal_at


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """Trains 30 steps; returns the config, the records and the digest of the last state."""
    workdir = tmp_path_factory.mktemp("long")
    config = long_config()
    train_and_evaluate(config, workdir)
    return config, metrics(workdir), final_digest(config, workdir)


def long_config():
    config = small_config()
    config.num_steps, config.boundaries = 30, (10, 15, 25)
    return config


def contents(workdir):
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def test_a_finished_run_is_extended_bit_for_bit(finished, long_run, capsys):
    """Its end is that of a run of 30 steps from the start, whose schedule has one more drop."""
    config, records, digest_at_end = long_run
    train_and_evaluate(config, finished)
    assert metrics(finished) == records
    assert final_digest(config, finished) == digest_at_end
    assert read_run_config(finished).num_steps == 30
    changes = read_config_changes(finished)
    assert [(c.step, c.field, c.old, c.new, c.same_learning_rates) for c in changes] == [
        (20, "boundaries", [10, 15], [10, 15, 25], True),
        (20, "num_steps", 20, 30, True),
    ]
    line = "the config changes after step 20: boundaries (10, 15) -> (10, 15, 25), num_steps 20 ->"
    assert line in capsys.readouterr().err
    before = contents(finished)
    train_and_evaluate(config, finished)
    assert contents(finished) == before


def test_an_unfinished_run_is_extended_from_an_odd_last_step(tmp_path, long_run):
    """A run of 17 steps, logged every 4, has one more record, and the others agree."""
    config, records, digest_at_end = long_run
    short = small_config()
    short.num_steps = 17
    train_and_evaluate(short, tmp_path)
    train_and_evaluate(config, tmp_path)
    extended = metrics(tmp_path)
    assert [record for record in extended if record["step"] != 17] == records
    assert final_digest(config, tmp_path) == digest_at_end


@pytest.mark.slow
def test_the_warmup_of_deep_models_is_extended_bit_for_bit(tmp_path):
    config = small_config()
    config.warmup.enabled, config.warmup.window, config.warmup.max_steps = True, 2, 6
    config.num_steps, config.boundaries, config.eval_every = 12, (9,), 4
    train_and_evaluate(config, tmp_path / "straight")
    short = config.copy_and_resolve_references()
    short.num_steps = 4  # within the warm-up
    train_and_evaluate(short, tmp_path / "extended")
    train_and_evaluate(config, tmp_path / "extended")
    assert metrics(tmp_path / "extended") == metrics(tmp_path / "straight")
    assert final_digest(config, tmp_path / "extended") == final_digest(
        config, tmp_path / "straight"
    )


def test_another_learning_rate_of_earlier_steps_needs_a_flag(finished, capsys):
    before = contents(finished)
    config = small_config()
    config.num_steps, config.learning_rate, config.boundaries = 24, 0.05, ()
    message = (
        r"learning_rate is 0.1 in the workdir and 0.05 in this config; num_steps.*"
        r"its 20 steps from step 0 on; .*--allow_schedule_change"
    )
    with pytest.raises(WorkdirError, match=message):
        train_and_evaluate(config, finished)
    assert contents(finished) == before
    train_and_evaluate(config, finished, allow_schedule_change=True)
    assert "steps before had other learning rates" in capsys.readouterr().err
    records = read_metrics(finished)
    assert records[-1]["step"] == 24
    assert records[-1]["learning_rate"] == pytest.approx(0.05)
    changes = read_config_changes(finished)
    assert {(c.field, c.same_learning_rates) for c in changes} == {
        ("boundaries", False),
        ("learning_rate", False),
        ("num_steps", False),
    }
    config.num_steps = 25  # the first steps still had the learning rate of the first config
    train_and_evaluate(config, finished)
    assert not read_config_changes(finished)[-1].same_learning_rates


def test_a_finished_run_has_no_steps_for_another_learning_rate(finished):
    config = small_config()
    config.boundaries = (5,)
    with pytest.raises(WorkdirError, match="All of its 20 steps are done, so a larger num_steps"):
        train_and_evaluate(config, finished, allow_schedule_change=True)
    config = small_config()
    config.boundaries = (10, 15, 22)  # changes nothing, and is stored
    train_and_evaluate(config, finished)
    assert read_run_config(finished).boundaries == (10, 15, 22)
    assert [c.field for c in read_config_changes(finished)] == ["boundaries"]


def test_other_fields_are_refused_with_the_flag_too(finished):
    before = contents(finished)
    config = small_config()
    config.num_steps, config.momentum = 30, 0.8
    with pytest.raises(WorkdirError, match=r"momentum is 0.9 in the workdir and 0.8 in this conf"):
        train_and_evaluate(config, finished, allow_schedule_change=True)
    assert contents(finished) == before


def stopped_run(config, workdir, monkeypatch, step):
    with monkeypatch.context() as patch:
        send_signal_at(patch, step, signal.SIGTERM)
        with pytest.raises(InterruptedRunError):
            train_and_evaluate(config, workdir)


@pytest.mark.parametrize("step", [7, 16])  # 16 has a record, which lacks the test error
def test_a_run_is_shortened_to_its_checkpoint(tmp_path, monkeypatch, step):
    stopped_run(small_config(), tmp_path / "run", monkeypatch, step)
    config = small_config()
    config.num_steps = step - 1
    with pytest.raises(WorkdirError, match=rf"num_steps must be at least {step}, got {step - 1}"):
        train_and_evaluate(config, tmp_path / "run")
    config.num_steps = step
    record = train_and_evaluate(config, tmp_path / "run")
    straight = small_config()
    straight.num_steps = step
    train_and_evaluate(straight, tmp_path / "straight")
    assert record["step"] == step
    assert metrics(tmp_path / "run") == metrics(tmp_path / "straight")
    before = contents(tmp_path / "run")
    assert train_and_evaluate(config, tmp_path / "run") == record
    assert contents(tmp_path / "run") == before


def test_a_stream_is_shortened_to_its_checkpoint(tmp_path):
    config = small_config()
    config.dataset.placement, config.dataset.workers = "stream", 0
    config.log_every, config.checkpoint_every = 2, 4
    config.num_steps = 4
    train_and_evaluate(config, tmp_path)
    expected = read_metrics(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    without_test = {k: v for k, v in expected[-1].items() if not k.startswith("test")}
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:-1]) + json.dumps(without_test) + "\n")
    record = train_and_evaluate(config, tmp_path)
    assert record["test_error"] == expected[-1]["test_error"]
    assert record["test_loss"] == expected[-1]["test_loss"]


def test_replicas_never_take_the_directories_of_other_runs(finished, tmp_path):
    """As in the directory of a variant of a sweep, whose runs are seed-0, seed-1, ..."""
    config = small_config()
    config.num_replicas = 2
    workdir = tmp_path / "variant"
    shutil.copytree(finished, workdir / "seed-1")
    before = contents(workdir)
    for _ in range(2):
        with pytest.raises(WorkdirError, match="variant/seed-1 holds another run"):
            train_and_evaluate(config, workdir)
        assert contents(workdir) == before
    # A failed start, which an earlier version let begin there, replaces nothing either.
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    assert not is_failed_start(workdir)


def test_replicas_get_a_change_that_a_killed_command_has_not_stored_for_them(tmp_path):
    """The run and its first replica are extended already; the second replica is not."""
    config = small_config()
    config.num_replicas, config.num_steps = 2, 30
    runs = {tmp_path: config, **replica_runs(config, tmp_path)}
    for directory, directory_config in runs.items():
        directory.mkdir(exist_ok=True)
        fields = directory_config.to_dict()
        fields["num_steps"] = 20 if directory.name == "seed-1" else 30
        (directory / "config.json").write_text(json.dumps(fields))
    (tmp_path / "checkpoints" / "20").mkdir(parents=True)
    changes = [replica_change(tmp_path, path, runs[path]) for path in runs]
    assert changes == [None, None, ConfigChange(20, {"num_steps": 20}, {"num_steps": 30}, True)]
    runs[tmp_path / "seed-1"].batch_size += 1
    assert replica_change(tmp_path, tmp_path / "seed-1", runs[tmp_path / "seed-1"]) is None


def test_a_change_is_for_the_checkpoint_and_the_config_that_were_compared(finished):
    """Another process may train between the comparison and the lock."""
    config = long_config()
    for step, old in ((15, 20), (20, 25)):
        change = ConfigChange(step, {"num_steps": old}, {"num_steps": 30}, True)
        config.boundaries = (10, 15)
        before = contents(finished)
        with (
            pytest.raises(WorkdirError, match=r"another process has trained in .* meanwhile"),
            open_workdir(finished, config, {}, change),
        ):
            pass
        assert contents(finished) | {finished / "lock": b""} == before | {finished / "lock": b""}


def test_resume(finished, tmp_path):
    config, before = small_config(), contents(finished)
    with pytest.raises(WorkdirError, match="holds a run of 20 steps, which --resume=never does"):
        train_and_evaluate(config, finished, resume="never")
    train_and_evaluate(config, finished, resume="must")
    assert contents(finished) == before
    with pytest.raises(WorkdirError, match="holds no checkpoint to resume from"):
        train_and_evaluate(config, tmp_path / "new", resume="must")
    assert not (tmp_path / "new").exists()
    config.num_steps = 4
    assert train_and_evaluate(config, tmp_path / "new", resume="never")["step"] == 4


def test_quiet(tmp_path, capfd):
    config = small_config()
    config.num_steps = 4
    train_and_evaluate(config, tmp_path, quiet=True)
    train_and_evaluate(config, tmp_path, quiet=True)
    assert capfd.readouterr() == ("", "")
    assert np.isfinite(read_metrics(tmp_path)[-1]["test_error"])


def test_the_error_of_another_run_names_fields_that_cannot_change(finished):
    config = small_config()
    config.num_steps, config.seed = 30, 3
    with pytest.raises(WorkdirError) as error:
        find_run_start(finished, config)
    assert "seed is 0 in the workdir and 3 in this config; repeat" in str(error.value)
    assert "--config.seed=0" in str(error.value)
    assert "num_steps" not in str(error.value)
