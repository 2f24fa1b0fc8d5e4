"""Runs: files, stops and restarts, damaged files, divergence."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from flaxres.data import load_dataset
from flaxres.errors import ConfigError, DivergedError, InterruptedRunError, WorkdirError
from flaxres.run.checkpoint import Checkpoints
from flaxres.run.orbax_files import digest
from flaxres.run.records import read_metrics
from flaxres.training import compiled_steps, train
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.train import train_and_evaluate
from tests.conftest import small_config
from tests.run.test_metric_writers import read_events


def metrics(workdir):
    """Returns all records of a run, without the fields that depend on time."""
    records = read_metrics(workdir)
    for record in records:
        assert record.pop("images_per_second") > 0
        assert 0 <= record.pop("data_wait_percent", 0) <= 100
    return records


def final_digest(config, workdir):
    """Returns the digest of the train state in the last checkpoint of a finished run."""
    template = CompiledSteps(config, load_dataset(config.dataset)).state_shape
    with Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(template, pytest.fail)
        assert int(state.step) == config.num_steps
        assert checkpoints.steps()[-1] == config.num_steps
    return digest(state)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Trains the small config with random crops; returns (config, records, final digest)."""
    workdir = tmp_path_factory.mktemp("straight")
    config = small_config()
    config.augment.pad = 1
    train_and_evaluate(config, workdir)
    return config, metrics(workdir), final_digest(config, workdir)


def send_signal_at(monkeypatch, step, signum):
    """Sends a signal to this process before it launches the dispatch that ends at `step`."""
    indices, sent = CompiledSteps.indices, []

    def wrapped(self, start, num_steps):
        if start + num_steps == step and not sent:
            sent.append(signum)
            os.kill(os.getpid(), signum)
        return indices(self, start, num_steps)

    monkeypatch.setattr(CompiledSteps, "indices", wrapped)


def test_training_imports_no_other_framework():
    """Their imports take seconds, and a run needs Orbax only to save."""
    code = "import sys, flaxres.training.train; print(*sys.modules)"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    slow = {"torch", "tensorflow", "sklearn", "scipy.stats", "pandas", "matplotlib"}
    slow |= {"orbax.checkpoint", "tensorflow_datasets", "grain", "tensorboardX"}
    assert not slow & {*done.stdout.split()}


def test_files_of_a_finished_run(tmp_path, config):
    record = train_and_evaluate(config, tmp_path)
    records = read_metrics(tmp_path)
    assert records[-1] == record
    # Logged every 4 steps, evaluated every 10, and both after the last step.
    assert [r["step"] for r in records] == [4, 8, 10, 12, 16, 20]
    assert [r["step"] for r in records if "test_error" in r] == [10, 20]
    for r in records:
        assert {"train_loss", "train_error", "learning_rate", "images_per_second"} < set(r)
    assert [r["learning_rate"] for r in records] == pytest.approx(
        [0.1, 0.1, 0.1, 0.01, 0.001, 0.001]
    )
    assert json.loads((tmp_path / "config.json").read_text())["num_steps"] == 20
    info = json.loads((tmp_path / "info.json").read_text())
    assert info["params"] == CompiledSteps(config, load_dataset(config.dataset)).info()["params"]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [10, 15, 20]
    scalars = read_events(tmp_path / "tensorboard")
    assert scalars[20, "test_error"] == pytest.approx(record["test_error"])
    assert record["train_loss"] < records[0]["train_loss"]


def test_the_validation_split_is_evaluated_too(tmp_path, config):
    config.num_steps = 4
    config.boundaries = ()
    config.dataset.train_split, config.dataset.validation_split = "train[:1200]", "train[1200:]"
    record = train_and_evaluate(config, tmp_path)
    assert {"validation_loss", "validation_error", "test_error"} < set(record)
    wrong = record["validation_error"] * 237 / 100
    assert wrong == pytest.approx(round(wrong))


def test_a_finished_run_is_reported_and_not_trained_again(finished, config, capsys, monkeypatch):
    before = {f: f.stat().st_mtime_ns for f in finished.rglob("*")}
    monkeypatch.setattr(train, "open_dataset", None)
    capsys.readouterr()
    assert train_and_evaluate(config, finished) == read_metrics(finished)[-1]
    assert "resnet-8" in (out := capsys.readouterr().out)
    assert "is finished" in out
    assert before == {f: f.stat().st_mtime_ns for f in finished.rglob("*")}


@pytest.mark.parametrize(("step", "signum"), [(7, signal.SIGINT), (10, signal.SIGTERM)])
def test_a_stopped_run_resumes_bit_for_bit(tmp_path, straight, monkeypatch, signum, step):
    config, records, digest_at_end = straight
    with monkeypatch.context() as patch:
        send_signal_at(patch, step, signum)
        with pytest.raises(InterruptedRunError, match=rf"Stopped at step {step} of 20\.") as caught:
            train_and_evaluate(config, tmp_path)
    assert caught.value.exit_code == 128 + signum
    train_and_evaluate(config, tmp_path)
    assert metrics(tmp_path) == records
    assert final_digest(config, tmp_path) == digest_at_end


def test_a_signal_in_the_last_step_is_not_lost(tmp_path, config, monkeypatch):
    with monkeypatch.context() as patch:
        send_signal_at(patch, 20, signal.SIGTERM)
        with pytest.raises(InterruptedRunError, match="Stopped at step 20 of 20"):
            train_and_evaluate(config, tmp_path)
    assert train_and_evaluate(config, tmp_path)["step"] == 20


def test_missing_metrics_are_refused(finished, config):
    (finished / "metrics.jsonl").unlink()
    with pytest.raises(WorkdirError, match=r"metrics\.jsonl lacks step 20"):
        train_and_evaluate(config, finished)


def test_missing_checkpoints_are_refused(finished, config):
    before = (finished / "metrics.jsonl").read_bytes()
    shutil.rmtree(finished / "checkpoints")
    for checkpoint_every in (5, 1_000):  # with 1,000, the last step has the only checkpoint
        config.checkpoint_every = checkpoint_every
        with pytest.raises(WorkdirError, match="metrics up to step 20 but no checkpoint"):
            train_and_evaluate(config, finished)
        assert (finished / "metrics.jsonl").read_bytes() == before


def test_an_empty_checkpoint_after_the_last_step(finished, config):
    """Nothing is left to train, and the result is that of the last step."""
    (finished / "checkpoints" / "21").mkdir()
    assert train_and_evaluate(config, finished) == read_metrics(finished)[-1]


def test_a_run_resumes_with_another_number_of_steps_per_dispatch(tmp_path, config, monkeypatch):
    """Stops at step 7 with one step per dispatch, then continues to 8 and by two steps."""
    config.log_every, config.checkpoint_every, config.eval_every = 4, 4, 10
    with monkeypatch.context() as patch:
        send_signal_at(patch, 7, signal.SIGTERM)
        with pytest.raises(InterruptedRunError):
            train_and_evaluate(config, tmp_path)
    monkeypatch.setattr(compiled_steps, "steps_per_dispatch", lambda *_: 2)
    train_and_evaluate(config, tmp_path)
    assert [r["step"] for r in read_metrics(tmp_path)] == [4, 8, 10, 12, 16, 20]


def test_divergence_stops_the_run_and_keeps_the_last_finite_checkpoint(tmp_path, config):
    config.learning_rate = 1e30
    config.boundaries = ()
    config.checkpoint_every = 1
    config.log_every = 3
    with pytest.raises(DivergedError) as caught:
        train_and_evaluate(config, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert "training diverged" in message
    assert message.count("at step") == 1
    assert "Try a learning_rate below 1e+30." in message
    with Checkpoints(tmp_path) as checkpoints:
        steps = checkpoints.steps()
        template = CompiledSteps(config, load_dataset(config.dataset)).state_shape
        state = checkpoints.restore(template, pytest.fail)
    kept = f"Checkpoint {steps[-1]} is kept" if steps else "There is no checkpoint yet"
    assert kept in message
    assert state is None or all(np.isfinite(leaf).all() for leaf in state.params["dense"].values())
    assert all(np.isfinite(list(r.values())).all() for r in read_metrics(tmp_path))


def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(
    tmp_path, straight, monkeypatch, capsys
):
    config, records, digest_at_end = straight
    with monkeypatch.context() as patch:
        send_signal_at(patch, 17, signal.SIGTERM)
        with pytest.raises(InterruptedRunError):
            train_and_evaluate(config, tmp_path)
    for file in (tmp_path / "checkpoints/17").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    capsys.readouterr()
    info = json.loads((tmp_path / "info.json").read_text())
    (tmp_path / "info.json").write_text(json.dumps(info | {"device": "H100"}))
    train_and_evaluate(config, tmp_path)
    (earlier,) = json.loads((tmp_path / "info.json").read_text())["earlier"]
    assert (earlier["device"], earlier["until_step"]) == ("H100", 15)
    assert "checkpoint 17 is damaged" in (err := capsys.readouterr().err)
    assert "resumes from step 15" in err
    assert metrics(tmp_path) == records
    assert final_digest(config, tmp_path) == digest_at_end


def test_a_batch_larger_than_the_training_split_is_refused(tmp_path, config):
    config.batch_size = 1_438
    with pytest.raises(ConfigError, match="batch_size must be at most 1,437"):
        train_and_evaluate(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_another_config_never_overwrites_a_run(finished, config):
    before = {f: f.read_bytes() for f in finished.rglob("*") if f.is_file()}
    config.learning_rate = 0.05
    with pytest.raises(
        WorkdirError, match=r"learning_rate is 0.1 in the workdir and 0.05 in this config"
    ):
        train_and_evaluate(config, finished)
    assert before == {f: f.read_bytes() for f in finished.rglob("*") if f.is_file()}
