"""Gradient accumulation against the large batch, sharpness-aware minimization against optax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxres.data import load_dataset
from flaxres.errors import ConfigError
from flaxres.models import create_model
from flaxres.parallel.sharding import Devices
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.gradients import compute_gradients, make_batch_loss, perturb_params
from flaxres.training.losses import Targets
from flaxres.training.optimizer import make_optimizer
from flaxres.training.train_state import create_state
from tests.conftest import quick_jit, small_config

pytestmark = pytest.mark.usefixtures("quick_compilation")


def make_inputs(config):
    model = create_model(config.model, 10)
    create = functools.partial(create_state, model, make_optimizer(config), config, (8, 8, 1))
    images = jax.random.normal(jax.random.key(1), (config.batch_size, 8, 8, 1))
    return model, quick_jit(create)(0), images, jnp.arange(config.batch_size) % 10


def gradients_of(config):
    """Returns gradients, metric sums and running statistics of one batch."""
    model, state, images, labels = make_inputs(config)
    return jax.jit(functools.partial(compute_gradients, model, config))(state, images, labels)


def assert_close(one, other, rtol=1e-4, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), one, other)


def test_accumulated_gradients_are_those_of_the_large_batch(config):
    """With the ascent of SAM, whose gradients are accumulated too."""
    config.model.norm, config.sam_radius = "layer", 0.5
    # All of them are drawn for the whole batch.
    config.augment.pad, config.augment.mixup, config.augment.cutmix = 1, 0.8, 1.0
    config.model.drop_path, config.model.drop_path_scope = 0.4, "image"
    expected = gradients_of(config)
    config.accumulation_steps = 4
    assert_close(gradients_of(config), expected)


@pytest.mark.parametrize("scope", ["batch", "image"])
def test_micro_batches_drop_the_blocks_of_the_large_batch(config, scope):
    config.model.update({"norm": "layer", "drop_path": 0.5, "drop_path_scope": scope})
    expected = gradients_of(config)
    config.accumulation_steps = 4
    assert_close(gradients_of(config), expected)


def test_statistics_are_those_of_micro_batches_and_pooled(config):
    """The first norm reads the same images in either case, so its statistics are those of all."""
    _, whole_sums, whole = gradients_of(config)
    config.accumulation_steps = 4
    _, sums, pooled = gradients_of(config)
    assert_close(pooled["norm"], whole["norm"])
    assert int(sums.count) == int(whole_sums.count) == config.batch_size
    last = "stage3_block1"  # its inputs were normalized by the statistics of the micro-batches
    assert abs(pooled[last]["norm1"]["var"] - whole[last]["norm1"]["var"]).max() > 1e-4


def test_dropout_masks_of_micro_batches_are_those_of_shards(config):
    """Micro-batches are numbered like the shards of as many devices."""
    config.model.shortcut, config.model.norm, config.accumulation_steps = "dropout", "none", 2
    model, state, images, labels = make_inputs(config)
    gradients, _, _ = jax.jit(functools.partial(compute_gradients, model, config))(
        state, images, labels
    )

    @quick_jit
    def shard_gradients(images, labels, number):
        loss = make_batch_loss(model, config, state, images, Targets(labels), number)
        return jax.grad(lambda params: loss(params)[0])(state.params)

    halves = [
        shard_gradients(images[rows], labels[rows], number)
        for number, rows in ((0, slice(16)), (1, slice(16, None)))
    ]
    assert_close(gradients, jax.tree.map(lambda a, b: (a + b) / 2, *halves))


def test_the_ascent_by_hand():
    """The gradient (3, 4) has the norm 5, over all parameters together."""
    params, gradients = {"a": jnp.ones(1), "b": jnp.ones(1)}, {"a": jnp.array([3.0])}
    gradients["b"] = jnp.array([4.0])
    assert_close(
        perturb_params(params, gradients, 0.5), {"a": np.array([1.3]), "b": np.array([1.4])}
    )
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert_close(perturb_params(params, zeros, 0.5), params, rtol=0)


def test_sharpness_aware_steps_equal_those_of_optax(config):
    """Three steps with momentum and weight decay; `contrib.sam` calls the loss a second time."""
    config.sam_radius, config.weight_decay = 0.3, 0.01
    config.model.norm = "layer"
    model, state, images, labels = make_inputs(config)
    compute = jax.jit(functools.partial(compute_gradients, model, config))
    sam = optax.contrib.sam(
        optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, momentum=0.9)),
        optax.chain(optax.contrib.normalize(), optax.sgd(0.3)),
        opaque_mode=True,
    )
    optimizer, params, velocity = make_optimizer(config), state.params, state.opt_state
    their_params, their_state = params, sam.init(params)

    @jax.jit
    def gradient(params):
        def loss(params):
            logits = model.apply({"params": params}, images, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.grad(loss)(params)

    for _ in range(3):
        gradients, sums, _ = compute(state.replace(params=params), images, labels)
        if params is state.params:  # metrics are those of the first pass
            logits = jax.jit(lambda p: model.apply({"params": p}, images, train=True))(params)
            assert int(sums.wrong) == int((logits.argmax(1) != labels).sum())
        updates, velocity = optimizer.update(gradients, velocity, params)
        params = jax.tree.map(lambda w, v: w - 0.1 * v, params, updates)
        updates, their_state = sam.update(
            gradient(their_params), their_state, their_params, grad_fn=lambda p, _: gradient(p)
        )
        their_params = optax.apply_updates(their_params, updates)
    assert_close(params, their_params)


def test_statistics_of_a_sharpness_aware_step_are_those_of_its_first_pass(config):
    _, sums, statistics = gradients_of(config)
    config.sam_radius = 0.5
    _, sam_sums, sam_statistics = gradients_of(config)
    assert_close((sam_sums, sam_statistics), (sums, statistics))


def train(num_devices, parallelism="jit", **fields):
    """Trains three steps with crops, a moving average and SAM; returns the state."""
    config = small_config()
    config.boundaries, config.augment.pad, config.learning_rate = (), 1, 0.01
    config.num_devices, config.parallelism = num_devices, parallelism
    config.update_from_flattened_dict({"ema_decay": 0.9, "sam_radius": 0.05, **fields})
    dataset = load_dataset(config.dataset)
    compiled_steps = CompiledSteps(config, dataset)
    state, arrays = compiled_steps.initial_state(), compiled_steps.put(dataset.train)
    step = compiled_steps.compile_train_steps(state, arrays, 1)
    for i in range(3):
        state, _ = step(state, arrays, compiled_steps.indices(i, 1))
    return jax.device_get(state)


def test_micro_batches_on_devices_equal_those_on_one_device():
    """Eight shards of four images: on one device, or on two with jit or pmap."""
    one_device = train(1, accumulation_steps=8, bn_scope="device")
    for parallelism in ("jit", "pmap"):
        two_devices = train(2, parallelism, accumulation_steps=4, bn_scope="device")
        assert_close(two_devices, one_device, atol=1e-5)


def test_sam_and_averages_on_devices_equal_those_on_one_device():
    assert_close(train(2), train(1), atol=1e-5)


def test_micro_batches_need_less_memory(config):
    config.batch_size, config.model.widths = 256, (16, 16, 16)
    dataset = load_dataset(config.dataset)
    temporary = []
    for config.accumulation_steps in (1, 8):
        compiled_steps = CompiledSteps(config, dataset)
        structs = compiled_steps.state_structs(), compiled_steps.split_structs(1437)
        temporary.append(compiled_steps.compile_train_steps(*structs, 1).temporary_bytes())
    assert temporary[1] < temporary[0] / 4


def test_micro_batches_divide_the_batch_of_each_device(config):
    config.accumulation_steps, config.num_devices = 16, 4
    message = "divisor of 8, the images of a batch on each of 4 devices, got 16"
    with pytest.raises(ConfigError, match=message):
        CompiledSteps(config, load_dataset(config.dataset), Devices(jax.devices()[:4]))
