"""Moving average of the weights against PyTorch and values by hand; runs that keep one."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.data import load_dataset
from flaxres.errors import ConfigError, InterruptedRunError
from flaxres.evaluation.evaluate import evaluate_run
from flaxres.inference.pretrained import load_pretrained, save_weights
from flaxres.inference.trained_model import load_trained_model
from flaxres.run.records import read_metrics
from flaxres.training import initialization
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.train import train_and_evaluate
from flaxres.training.weight_average import ema_decay, evaluated_states, update_average
from tests.conftest import small_config
from tests.training.test_train import final_digest, metrics, send_signal_at

RECIPE = {"ema_decay": 0.95, "sam_radius": 0.05, "accumulation_steps": 2, "augment.pad": 1}


def recipe_config(**fields):
    config = small_config()
    config.update_from_flattened_dict(RECIPE | fields)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the directory of a finished run with an average, SAM and accumulation."""
    workdir = tmp_path_factory.mktemp("average") / "run"
    train_and_evaluate(recipe_config(), workdir)
    return workdir


def states_of(config, num_steps=3):
    """Returns the states after each step, on the host."""
    dataset = load_dataset(config.dataset)
    compiled_steps = CompiledSteps(config, dataset)
    state, arrays = compiled_steps.initial_state(), compiled_steps.put(dataset.train)
    states = [jax.device_get(state)]
    step = compiled_steps.compile_train_steps(state, arrays, 1)
    for i in range(num_steps):
        state, _ = step(state, arrays, compiled_steps.indices(i, 1))
        states.append(jax.device_get(state))
    return states


def test_averages_equal_those_of_pytorch(config):
    """Parameters and running statistics, without the ramp; from the initial weights."""
    torch = pytest.importorskip("torch")
    from torch.optim.swa_utils import get_ema_multi_avg_fn

    config.ema_decay, config.ema_ramp = 0.7, False
    first, *states = states_of(config)
    update = get_ema_multi_avg_fn(0.7)
    averages = [torch.tensor(leaf) for leaf in jax.tree.leaves(first.variables)]
    for count, state in enumerate(states):
        weights = [torch.tensor(leaf) for leaf in jax.tree.leaves(state.variables)]
        update(averages, weights, count)
        for average, expected in zip(jax.tree.leaves(state.ema), averages, strict=True):
            np.testing.assert_allclose(average, expected.numpy(), rtol=1e-5, atol=1e-7)


def test_the_ramp_by_hand(config):
    """min(0.2, (1 + t) / (10 + t)) is 1/10, 2/11 and then 0.2."""
    config.ema_decay = 0.2
    decays = [float(ema_decay(config, jnp.int32(t))) for t in range(3)]
    np.testing.assert_allclose(decays, [1 / 10, 2 / 11, 0.2], rtol=1e-6)
    state = states_of(config, 0)[0]
    ones = jax.tree.map(np.ones_like, state.variables)
    zeros = jax.tree.map(np.zeros_like, state.variables)
    state = state.replace(**ones, ema=zeros)
    for t, expected in enumerate((1 - 1 / 10, 1 - 1 / 10 * 2 / 11, 1 - 1 / 10 * 2 / 11 * 0.2)):
        state = update_average(config, state, jnp.int32(t))
        np.testing.assert_allclose(state.ema["params"]["conv"]["kernel"], expected, rtol=1e-6)


def test_training_does_not_depend_on_the_average(config):
    plain = states_of(config)
    assert [*evaluated_states(plain[-1])] == [""]
    config.ema_decay = 0.9
    averaged = states_of(config)
    assert jax.tree.structure(plain[-1]) != jax.tree.structure(averaged[-1])
    jax.tree.map(np.testing.assert_array_equal, plain[-1].variables, averaged[-1].variables)


def test_frozen_layers_are_averaged_without_rounding(config):
    config.ema_decay, config.transfer.frozen = 0.9, ("conv", "norm")
    first, *_, last = states_of(config)
    for layer in ("conv", "norm"):
        jax.tree.map(np.testing.assert_array_equal, first.params[layer], last.ema["params"][layer])
    jax.tree.map(
        np.testing.assert_array_equal, first.batch_stats["norm"], last.ema["batch_stats"]["norm"]
    )


@pytest.mark.parametrize("op_by_op", [False, True])
def test_the_average_begins_with_pretrained_weights(config, run, monkeypatch, op_by_op):
    if op_by_op:
        monkeypatch.setattr(initialization, "MAX_COMPILED_ARRAYS", 0)
    config.ema_decay, config.init_from = 0.9, str(run)
    first, last = states_of(config, 1)
    expected = load_trained_model(run).variables
    jax.tree.map(np.testing.assert_array_equal, first.ema, expected)
    jax.tree.map(np.testing.assert_array_equal, first.variables, expected)
    assert int(last.step) == 1


def test_a_stopped_run_resumes_bit_for_bit(tmp_path, run, monkeypatch):
    with monkeypatch.context() as patch:
        send_signal_at(patch, 7, signal.SIGTERM)
        with pytest.raises(InterruptedRunError, match="Stopped at step 7 of 20"):
            train_and_evaluate(recipe_config(), tmp_path)
    train_and_evaluate(recipe_config(), tmp_path)
    assert metrics(tmp_path) == metrics(run)
    assert final_digest(recipe_config(), tmp_path) == final_digest(recipe_config(), run)


def test_both_weights_are_evaluated(run, config, tmp_path):
    record = read_metrics(run)[-1]
    names = ("test_loss", "test_error")
    raw, average = evaluate_run(None, run), evaluate_run(None, run, ema=True, splits=["test"])
    for name in names:
        assert raw[name] == pytest.approx(record[name], rel=1e-4)
        assert average[f"ema_{name}"] == pytest.approx(record[f"ema_{name}"], rel=1e-4)
        assert name not in average
    assert record["ema_test_loss"] != record["test_loss"]
    trained = load_trained_model(run, ema=True)
    assert trained.errors == {"test_error": record["ema_test_error"]}
    assert "average weights" in trained.name
    save_weights(trained, tmp_path / "average.safetensors")
    loaded = load_pretrained(tmp_path / "average.safetensors")
    assert loaded.ema
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, trained.variables)
    with pytest.raises(ConfigError, match=r"average\.safetensors has one set of weights"):
        load_pretrained(tmp_path / "average.safetensors", ema=True)


def test_a_run_without_an_average(digits_run):
    with pytest.raises(ConfigError, match="trained without an average of its weights"):
        load_trained_model(digits_run, ema=True)
    assert not any("ema" in name for record in read_metrics(digits_run) for name in record)


def test_replicas_have_averages_of_their_own(tmp_path):
    fields = {"num_steps": 4, "eval_every": 4, "boundaries": (), "accumulation_steps": 1}
    train_and_evaluate(recipe_config(**fields, num_replicas=2), tmp_path / "both")
    record = evaluate_run(None, tmp_path / "both", ema=True, splits=["test"])
    mean = read_metrics(tmp_path / "both")[-1]["ema_test_error"]
    assert record["ema_test_error"] == pytest.approx(mean)
    replicas = [read_metrics(tmp_path / "both" / f"seed-{seed}")[-1] for seed in (0, 1)]
    losses = [replica["ema_test_loss"] for replica in replicas]
    assert losses[0] != losses[1]
    assert record["ema_test_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
