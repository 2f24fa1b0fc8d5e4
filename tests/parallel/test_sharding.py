"""Training on eight virtual CPU devices: jit and pmap, and both scopes of batch norm."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxres.data import load_dataset
from flaxres.data.augment import normalize
from flaxres.data.sampler import EpochSampler
from flaxres.errors import ConfigError, InterruptedRunError
from flaxres.models import create_model
from flaxres.parallel import sharding
from flaxres.run.checkpoint import Checkpoints
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.train import train_and_evaluate
from tests.conftest import small_config
from tests.training.test_train import send_signal_at

STEPS = 10


def train(num_devices=8, **changes):
    """Trains ten steps with crops, flips and a drop of the learning rate.

    Returns the state and the metric sums as NumPy arrays.
    """
    config = small_config()
    config.boundaries = (5,)
    config.augment.pad = 1
    config.augment.flip = True
    config.num_devices = num_devices
    config.update_from_flattened_dict(changes)
    dataset = load_dataset(config.dataset)
    compiled_steps = CompiledSteps(config, dataset)
    state, arrays = compiled_steps.initial_state(), compiled_steps.put(dataset.train)
    step = compiled_steps.compile_train_steps(state, arrays, 1)
    sampler = EpochSampler(len(dataset.train), config.batch_size, config.seed)
    for i in range(STEPS):
        state, sums = step(state, arrays, sampler.indices(i))
    return jax.device_get(state), jax.device_get(sums)


def assert_close(one, other, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol), one, other)


@pytest.fixture(scope="module")
def one_device():
    return train(num_devices=1)


@pytest.mark.parametrize("parallelism", ["jit", "pmap"])
def test_global_batch_norm_equals_one_device(one_device, parallelism):
    assert_close(train(parallelism=parallelism), one_device)


@pytest.fixture(scope="module")
def per_device():
    """Result of training with batch norm over the four images of each device, compiled by jit."""
    return train(bn_scope="device")


def test_batch_norm_per_device_is_the_same_with_jit_and_pmap(per_device, one_device):
    assert_close(train(bn_scope="device", parallelism="pmap"), per_device)
    difference = jax.tree.map(
        lambda a, b: abs(a - b).max(), per_device[0].params, one_device[0].params
    )
    assert max(jax.tree.leaves(difference)) > 1e-3


def test_batch_norm_per_device_equals_a_loop_over_shards():
    config = small_config()
    # With a learning rate of 0.1, ten steps on such small batches amplify rounding errors to 1e-3.
    changes = {"augment.pad": 0, "augment.flip": False, "learning_rate": 0.01}
    state, _ = train(bn_scope="device", **changes)
    dataset = load_dataset(config.dataset)
    start = CompiledSteps(config, dataset).initial_state()
    model = create_model(config.model, 10)

    @jax.jit
    def shard_gradient(params, batch_stats, images, labels):
        def loss(params):
            variables = {"params": params, "batch_stats": batch_stats}
            logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.grad(loss)(params)

    params = start.params
    velocity = jax.tree.map(jnp.zeros_like, params)
    sampler = EpochSampler(len(dataset.train), config.batch_size, config.seed)
    mean = dataset.mean_image()
    for i in range(STEPS):
        shards = sampler.indices(i)[0].reshape(8, -1)
        gradients = [
            shard_gradient(
                params,
                start.batch_stats,
                normalize(jnp.asarray(dataset.train.images[rows]), mean),
                dataset.train.labels[rows],
            )
            for rows in shards
        ]
        learning_rate = 0.01 if i < 5 else 0.001
        mean_gradient = jax.tree.map(lambda *g: sum(g) / 8, *gradients)
        velocity = jax.tree.map(
            lambda v, g, w: 0.9 * v + g + 1e-4 * w, velocity, mean_gradient, params
        )
        params = jax.tree.map(lambda w, v, lr=learning_rate: w - lr * v, params, velocity)
    assert_close(state.params, params)


@pytest.mark.parametrize(
    ("parallelism", "batch_size"), [("jit", 96), ("jit", 7), ("jit", 360), ("pmap", 7)]
)
def test_evaluation_on_eight_devices_counts_every_image_once(config, parallelism, batch_size):
    config.parallelism = parallelism
    config.eval_batch_size = batch_size
    dataset = load_dataset(config.dataset)
    single_device = CompiledSteps(config, dataset)
    state, arrays = single_device.initial_state(), single_device.put(dataset.test)
    expected = single_device.evaluate(state, arrays)
    config.num_devices = 8
    compiled_steps = CompiledSteps(config, dataset)
    sums = compiled_steps.evaluate(compiled_steps.initial_state(), compiled_steps.put(dataset.test))
    assert (sums.count, sums.wrong) == (360, expected.wrong)
    np.testing.assert_allclose(sums.loss, expected.loss, rtol=1e-5)


def stop_at(monkeypatch, tmp_path, config, step):
    """Trains until a SIGTERM at `step`."""
    with monkeypatch.context() as patch:
        send_signal_at(patch, step, signal.SIGTERM)
        with pytest.raises(InterruptedRunError):
            train_and_evaluate(config, tmp_path)


def test_a_run_resumes_on_another_number_of_devices(tmp_path, config, monkeypatch, capsys):
    config.bn_scope = "device"
    for step, (num_devices, parallelism) in enumerate(
        [(8, "jit"), (1, "jit"), (4, "pmap"), (2, "jit")], start=1
    ):
        config.num_devices, config.parallelism = num_devices, parallelism
        compiled_steps = CompiledSteps(config, load_dataset(config.dataset))
        with Checkpoints(tmp_path) as checkpoints:
            state = (
                checkpoints.restore(compiled_steps.state_shape, pytest.fail) if step > 1 else None
            )
        if state is not None:
            replicated = jax.device_get(compiled_steps.devices.replicate(state))
            jax.tree.map(np.testing.assert_array_equal, replicated, state)
        stop_at(monkeypatch, tmp_path, config, step)
    assert "Before the restart they covered 32 on each of 1." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_devices": 8, "batch_size": 30},
            "batch_size must be a multiple of the 8 devices, got 30",
        ),
        (
            {"num_devices": 9},
            r"must be at most 8 \(this process has 8 CPU devices\), got 9",
        ),
    ],
)
def test_invalid_numbers_of_devices(config, changes, message):
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message):
        CompiledSteps(config, load_dataset(config.dataset))


def test_device_name_of_a_cpu():
    import os

    name = sharding.device_name()
    assert name.endswith(f", {len(os.sched_getaffinity(0))} cores")
    assert len(name) > len(", 2 cores")
