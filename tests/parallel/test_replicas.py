"""A run of two replicas equals two runs of the same seeds."""

import json
import signal

import jax
import numpy as np
import pytest

from flaxres.data import load_dataset
from flaxres.errors import ConfigError, DivergedError, InterruptedRunError
from flaxres.evaluation.evaluate import evaluate_run
from flaxres.parallel import replicas
from flaxres.run.checkpoint import Checkpoints
from flaxres.run.records import read_metrics
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.train import train_and_evaluate
from tests.conftest import small_config
from tests.training.test_train import metrics, send_signal_at


def two_seed_config():
    config = small_config()
    config.augment.pad = 1
    config.learning_rate = 0.02
    config.seed = 3
    config.num_replicas = 2
    return config


@pytest.fixture(scope="module")
def replicated_run(tmp_path_factory):
    """Workdir and last record of a finished run of two replicas."""
    workdir = tmp_path_factory.mktemp("replicated")
    record = train_and_evaluate(two_seed_config(), workdir)
    return workdir, record


def last_state(config, workdir):
    compiled_steps = CompiledSteps(config, load_dataset(config.dataset))
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.restore(compiled_steps.state_shape, pytest.fail)


def test_each_replica_equals_a_separate_run(replicated_run, tmp_path):
    workdir, _ = replicated_run
    state = last_state(two_seed_config(), workdir)
    for i, seed in enumerate((3, 4)):
        config = two_seed_config()
        config.seed, config.num_replicas = seed, 1
        train_and_evaluate(config, tmp_path / str(seed))
        expected = last_state(config, tmp_path / str(seed))
        replica = jax.tree.map(lambda leaf, i=i: leaf[i], state)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-4), replica, expected)
        for record, expected_record in zip(
            metrics(workdir / f"seed-{seed}"), metrics(tmp_path / str(seed)), strict=True
        ):
            assert record == pytest.approx(expected_record, rel=1e-3)
        stored = json.loads((workdir / f"seed-{seed}/config.json").read_text())
        assert (stored["seed"], stored["num_replicas"]) == (seed, 1)


def test_the_run_records_means_over_replicas(replicated_run):
    workdir, record = replicated_run
    records = read_metrics(workdir)
    assert records[-1] == record
    first, second = (read_metrics(workdir / f"seed-{seed}")[-1] for seed in (3, 4))
    assert record["step"] == first["step"] == 20
    assert record["test_error"] == pytest.approx((first["test_error"] + second["test_error"]) / 2)
    assert first["train_loss"] != second["train_loss"]
    assert evaluate_run(two_seed_config(), workdir)["test_error"] == pytest.approx(
        record["test_error"]
    )


def test_a_stopped_run_resumes_bit_for_bit(replicated_run, tmp_path, monkeypatch):
    workdir, _ = replicated_run
    with monkeypatch.context() as patch:
        send_signal_at(patch, 7, signal.SIGTERM)
        with pytest.raises(InterruptedRunError, match="Stopped at step 7"):
            train_and_evaluate(two_seed_config(), tmp_path)
    train_and_evaluate(two_seed_config(), tmp_path)
    for name in ("", "seed-3", "seed-4"):
        assert metrics(tmp_path / name) == metrics(workdir / name)
    states = [last_state(two_seed_config(), path) for path in (tmp_path, workdir)]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_mean_and_split_records():
    record = {"step": 5, "train_error": [10.0, 30.0], "images_per_second": 7.0}
    assert replicas.mean_record(record) == {
        "step": 5,
        "train_error": 20.0,
        "images_per_second": 7.0,
    }
    assert replicas.split_record(record, 2)[1] == {
        "step": 5,
        "train_error": 30.0,
        "images_per_second": 7.0,
    }


def test_unsupported_settings_and_divergence(tmp_path):
    config = two_seed_config()
    config.num_devices = 2
    with pytest.raises(ConfigError, match="num_replicas > 1 needs a single device"):
        train_and_evaluate(config, tmp_path / "run")
    config.parallelism = "pmap"
    with pytest.raises(ConfigError, match="parallelism must be jit if num_replicas is above 1"):
        train_and_evaluate(config, tmp_path / "run")
    config = two_seed_config()
    config.learning_rate = 1e30
    with pytest.raises(DivergedError):
        train_and_evaluate(config, tmp_path / "diverged")
