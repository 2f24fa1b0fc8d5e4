"""Two seeds in one program against the same seeds one by one."""

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
from flaxres.run.metric_writers import read_metrics
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.train import train_and_evaluate
from tests.conftest import small_config
from tests.training.test_train import metrics, send_signal_at


def two_seeds():
    config = small_config()
    config.augment.pad = 1
    config.learning_rate = 0.02
    config.seed = 3
    config.num_replicas = 2
    return config


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("together")
    record = train_and_evaluate(two_seeds(), workdir)
    return workdir, record


def last_state(config, workdir):
    compiled_steps = CompiledSteps(config, load_dataset(config.dataset))
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.restore(compiled_steps.state_shape, pytest.fail)


def test_each_seed_is_the_run_that_it_is_alone(together, tmp_path):
    workdir, _ = together
    state = last_state(two_seeds(), workdir)
    for i, seed in enumerate((3, 4)):
        config = two_seeds()
        config.seed, config.num_replicas = seed, 1
        train_and_evaluate(config, tmp_path / str(seed))
        alone = last_state(config, tmp_path / str(seed))
        own = jax.tree.map(lambda leaf, i=i: leaf[i], state)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-4), own, alone)
        for ours, theirs in zip(
            metrics(workdir / f"seed-{seed}"), metrics(tmp_path / str(seed)), strict=True
        ):
            assert ours == pytest.approx(theirs, rel=1e-3)
        there = json.loads((workdir / f"seed-{seed}/config.json").read_text())
        assert (there["seed"], there["num_replicas"]) == (seed, 1)


def test_the_run_itself_has_the_means(together):
    workdir, record = together
    records = read_metrics(workdir)
    assert records[-1] == record
    one, other = (read_metrics(workdir / f"seed-{seed}")[-1] for seed in (3, 4))
    assert record["step"] == one["step"] == 20
    assert record["test_error"] == pytest.approx((one["test_error"] + other["test_error"]) / 2)
    assert one["train_loss"] != other["train_loss"]
    assert evaluate_run(two_seeds(), workdir)["test_error"] == pytest.approx(record["test_error"])


def test_stopped_and_gone_on_bit_for_bit(together, tmp_path, monkeypatch):
    workdir, _ = together
    with monkeypatch.context() as patch:
        send_signal_at(patch, 7, signal.SIGTERM)
        with pytest.raises(InterruptedRunError, match="Stopped at step 7"):
            train_and_evaluate(two_seeds(), tmp_path)
    train_and_evaluate(two_seeds(), tmp_path)
    for name in ("", "seed-3", "seed-4"):
        assert metrics(tmp_path / name) == metrics(workdir / name)
    states = [last_state(two_seeds(), path) for path in (tmp_path, workdir)]
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_means_and_single_records():
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


def test_what_they_do_not_go_with(tmp_path):
    config = two_seeds()
    config.num_devices = 2
    with pytest.raises(ConfigError, match="num_replicas > 1 needs a single device"):
        train_and_evaluate(config, tmp_path / "run")
    config.parallelism = "pmap"
    with pytest.raises(ConfigError, match="parallelism must be jit if num_replicas is above 1"):
        train_and_evaluate(config, tmp_path / "run")
    config = two_seeds()
    config.learning_rate = 1e30
    with pytest.raises(DivergedError):
        train_and_evaluate(config, tmp_path / "diverged")
