"""Layer statistics against finite differences and NumPy."""

import jax
import numpy as np
import pytest

from flaxres.data import load_dataset
from flaxres.errors import ConfigError, InterruptedRunError
from flaxres.models import create_model
from flaxres.run.records import read_metrics
from flaxres.run.workdir import LAYERS_FILE
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.gradients import make_loss
from flaxres.training.layer_statistics import QUANTITIES
from flaxres.training.train import train_and_evaluate
from tests.conftest import small_config
from tests.training.test_train import final_digest, metrics, send_signal_at

LAYERS = [
    "conv",
    *(f"stage{stage}_block1/conv{number}" for stage in (1, 2, 3) for number in (1, 2)),
    "dense",
]


def measure(**fields):
    """Computes the layer statistics of the small config before its first step.

    Returns: config, compiled steps, training split, state and record.
    """
    config = small_config()
    config.update(fields)
    compiled_steps = CompiledSteps(config, load_dataset(config.dataset))
    arrays = compiled_steps.put(load_dataset(config.dataset).train)
    state = compiled_steps.initial_state()
    values = jax.device_get(compiled_steps.launch_layer_statistics(state, arrays, 0))
    return config, compiled_steps, arrays, state, compiled_steps.layer_statistics.record(0, values)


@pytest.fixture(scope="module")
def small():
    return measure()


def test_layers_are_in_order(small):
    record = small[-1]
    assert record["step"] == 0
    assert [list(record[quantity]) for quantity in QUANTITIES] == 3 * [LAYERS]


def test_gradients_match_finite_differences(small):
    config, compiled_steps, arrays, state, record = small
    rows = compiled_steps.indices(0, 1)[0]
    images, labels = arrays.batch(rows)
    loss = make_loss(create_model(config.model, 10), config, state, images, labels)

    @jax.jit
    def loss_with(layer_kernels):
        params = {k: dict(v) for k, v in state.params.items()}
        for name, kernel in layer_kernels.items():
            params[name]["kernel"] = kernel
        return loss(params)[0]

    for name in ("conv", "dense"):
        kernel, step = np.asarray(state.params[name]["kernel"]), 1e-4
        slopes = []
        for i in range(kernel.size):
            ends = []
            for sign in (1, -1):
                moved = kernel.copy()
                moved.flat[i] += sign * step
                ends.append(float(loss_with({name: moved})))
            slopes.append((ends[0] - ends[1]) / (2 * step))
        assert record["gradient"][name] == pytest.approx(np.linalg.norm(slopes), rel=0.02)


def test_backward_signal_and_activations_match_numpy(small):
    config, compiled_steps, arrays, state, record = small
    rows = compiled_steps.indices(0, 1)[0]
    images, labels = map(np.asarray, arrays.batch(rows))
    logits = create_model(config.model, 10).apply(
        state.variables, images, train=True, mutable=["batch_stats"]
    )[0]
    # Gradient of the mean cross-entropy: (probabilities - one-hot labels) / batch size.
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    probabilities[np.arange(len(labels)), labels] -= 1
    backward = np.linalg.norm(probabilities) / len(labels)
    assert record["backward"]["dense"] == pytest.approx(backward, rel=1e-4)
    assert record["activation"]["dense"] == pytest.approx(np.sqrt(np.mean(logits**2)), rel=1e-4)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = np.asarray(state.params["conv"]["kernel"])
    outputs = sum(
        padded[:, i : i + 8, j : j + 8] @ kernel[i, j] for i in range(3) for j in range(3)
    )
    expected = np.sqrt(np.mean(outputs**2))
    assert record["activation"]["conv"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scope", ["global", "device"])
def test_statistics_over_several_devices(small, scope):
    record = measure(num_devices=4, bn_scope=scope)[-1]
    rtol = 1e-3 if scope == "global" else 0.5  # batch statistics differ
    for quantity in QUANTITIES:
        expected = list(small[-1][quantity].values())
        np.testing.assert_allclose(list(record[quantity].values()), expected, rtol=rtol)


def test_logging_changes_nothing_and_resumes_without_a_gap(tmp_path, monkeypatch):
    config = small_config()
    train_and_evaluate(config, tmp_path / "without")
    config.log_layers_every = 4
    train_and_evaluate(config, tmp_path / "with")
    assert not (tmp_path / "without" / LAYERS_FILE).exists()
    assert metrics(tmp_path / "with") == metrics(tmp_path / "without")
    assert final_digest(config, tmp_path / "with") == final_digest(config, tmp_path / "without")
    records = read_metrics(tmp_path / "with", LAYERS_FILE)
    assert [record["step"] for record in records] == [0, 4, 8, 12, 16, 20]

    send_signal_at(monkeypatch, 11, 15)
    with pytest.raises(InterruptedRunError):
        train_and_evaluate(config, tmp_path / "stopped")
    train_and_evaluate(config, tmp_path / "stopped")
    assert read_metrics(tmp_path / "stopped", LAYERS_FILE) == records


def test_values_that_are_not_finite_are_none(small):
    statistics = small[1].layer_statistics
    values = {quantity: np.full(len(LAYERS), np.inf) for quantity in QUANTITIES}
    assert statistics.record(3, values)["gradient"]["conv"] is None


def test_layer_statistics_of_several_replicas_are_refused(config, tmp_path):
    config.num_replicas, config.log_layers_every = 2, 1
    with pytest.raises(ConfigError, match="log_layers_every must be 0 if num_replicas"):
        train_and_evaluate(config, tmp_path)
