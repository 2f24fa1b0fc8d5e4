"""Runs with optimizers, clipping, layer-wise learning rates, schedules and all other recipes on."""

import jax
import numpy as np
import pytest

from flaxres.data import load_dataset
from flaxres.errors import InterruptedRunError
from flaxres.run.records import read_metrics
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.train import train_and_evaluate
from tests.conftest import small_config
from tests.training.test_train import final_digest, metrics, send_signal_at

LAMB = {
    **{"optimizer": "lamb", "weight_decay": 0.05, "weight_decay_on": "kernels"},
    **{"learning_rate": 0.02, "clip_norm": 1.0, "layer_decay": 0.8, "schedule": "one-cycle"},
}
EVERY_RECIPE = LAMB | {
    **{"accumulation_steps": 2, "sam_radius": 0.05, "ema_decay": 0.9},
    **{"loss": "binary-cross-entropy", "augment.policy": "trivial-augment", "augment.cutout": 2},
    **{"augment.erasing_probability": 0.5, "augment.mixup": 0.2, "augment.cutmix": 1.0},
    **{"model.drop_path": 0.2, "model.se_reduction": 4},
}
LARS = {
    **{"optimizer": "lars", "trust_ratio.coefficient": 0.02, "nesterov": True, "clip_norm": 0.5},
    **{"schedule": "wsd", "cooldown_steps": 8, "linear_warmup_steps": 2},
}
ADAMW = {
    **{"optimizer": "adamw", "learning_rate": 0.01, "clip_norm": 0.5, "layer_decay": 0.5},
    **{"schedule": "polynomial", "final_learning_rate": 1e-3},
}


def recipe_config(fields, **others):
    config = small_config()
    config.augment.pad = 1
    config.update_from_flattened_dict(fields | others)
    return config


def train(config, num_steps=2):
    """Returns the state after some steps, each a dispatch of its own."""
    dataset = load_dataset(config.dataset)
    compiled_steps = CompiledSteps(config, dataset)
    state, arrays = compiled_steps.initial_state(), compiled_steps.put(dataset.train)
    for step in range(num_steps):
        train_steps = compiled_steps.compile_train_steps(state, arrays, 1)
        state, train_metrics = train_steps(state, arrays, compiled_steps.indices(step, 1))
    return jax.device_get((state, train_metrics))


@pytest.mark.parametrize("fields", [EVERY_RECIPE, LARS, ADAMW], ids=["every", "lars", "adamw"])
def test_a_run_resumes_bit_for_bit(tmp_path, monkeypatch, fields):
    config = recipe_config(fields)
    record = train_and_evaluate(config, tmp_path / "straight")
    with monkeypatch.context() as patch:
        send_signal_at(patch, 13, 15)
        with pytest.raises(InterruptedRunError):
            train_and_evaluate(config, tmp_path / "stopped")
    train_and_evaluate(config, tmp_path / "stopped")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "straight")
    digests = [final_digest(config, tmp_path / name) for name in ("straight", "stopped")]
    assert digests[0] == digests[1]
    first = read_metrics(tmp_path / "straight")[0]
    assert record["train_loss"] < first["train_loss"]
    assert record["gradient_norm"] > 0


def test_a_run_on_two_devices_is_that_on_one():
    states = [
        train(recipe_config(LAMB, num_devices=count, parallelism=parallelism))
        for count, parallelism in ((1, "jit"), (2, "jit"), (2, "pmap"))
    ]
    for state, train_metrics in states[1:]:
        norm = states[0][1].gradient_norm
        np.testing.assert_allclose(train_metrics.gradient_norm, norm, rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
            state.params,
            states[0][0].params,
        )


def test_replicas_are_the_runs_of_their_seeds():
    """Each replica is clipped by the norm of its own gradient."""
    together, train_metrics = train(recipe_config(ADAMW, num_replicas=2))
    for replica in range(2):
        alone, metrics_of_one = train(recipe_config(ADAMW, seed=replica))
        norm = train_metrics.gradient_norm[replica]
        np.testing.assert_allclose(norm, metrics_of_one.gradient_norm, rtol=1e-5)
        jax.tree.map(
            lambda a, b, i=replica: np.testing.assert_allclose(a[i], b, rtol=1e-3, atol=1e-5),
            together.params,
            alone.params,
        )
