"""Training and evaluation steps against computations by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.data import load_dataset
from flaxres.errors import ConfigError
from flaxres.models import create_model
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.gradients import make_loss
from flaxres.training.losses import cross_entropy
from flaxres.training.optimizer import make_optimizer
from flaxres.training.steps import make_evaluate, make_train_step
from flaxres.training.train_state import create_state
from tests.conftest import quick_jit


def build(config):
    model = create_model(config.model, 10, config.dtype)
    optimizer = make_optimizer(config)
    create = functools.partial(create_state, model, optimizer, config, (8, 8, 1))
    state = quick_jit(create)(0)
    return model, state, jax.jit(make_train_step(model, optimizer, config))


def make_batch(config, seed=1):
    images = jax.random.normal(jax.random.key(seed), (config.batch_size, 8, 8, 1))
    return images, jnp.arange(config.batch_size) % 10


def test_steps_match_a_computation_by_hand(config):
    config.weight_decay = 0.01
    model, state, train_step = build(config)
    images, labels = make_batch(config)

    def cross_entropy(params, batch_stats):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        chosen = jnp.exp(logits)[jnp.arange(len(labels)), labels] / jnp.exp(logits).sum(axis=1)
        return -jnp.log(chosen).mean(), (logits, updated["batch_stats"])

    params, batch_stats = state.params, state.batch_stats
    velocity = jax.tree.map(jnp.zeros_like, params)
    value_and_grad = jax.jit(jax.value_and_grad(cross_entropy, has_aux=True))
    for step in range(3):
        (loss, (logits, batch_stats)), gradient = value_and_grad(params, batch_stats)
        velocity = jax.tree.map(lambda v, g, w: 0.9 * v + g + 0.01 * w, velocity, gradient, params)
        params = jax.tree.map(lambda w, v: w - 0.1 * v, params, velocity)
        state, sums = train_step(state, images, labels)
        assert int(state.step) == step + 1
        np.testing.assert_allclose(sums.loss / sums.count, loss, rtol=1e-5)
        assert int(sums.wrong) == int((logits.argmax(1) != labels).sum())
        for actual, expected in ((state.params, params), (state.batch_stats, batch_stats)):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), actual, expected
            )
    assert int(state.sums.count) == 3 * config.batch_size


def test_the_learning_rate_drops_at_its_boundary(config):
    config.boundaries = (2,)
    _, state, train_step = build(config)
    learning_rates = []
    for _ in range(3):
        state, _ = train_step(state, *make_batch(config))
        learning_rates.append(float(state.learning_rate))
    np.testing.assert_allclose(learning_rates, [0.1, 0.1, 0.01], rtol=1e-6)


def test_augmentation_is_a_function_of_seed_and_step(config):
    config.augment.pad = 2
    config.augment.flip = True
    _, state, train_step = build(config)

    def loss(state):
        return float(train_step(state, *make_batch(config))[1].loss)

    assert loss(state) == loss(state)
    assert loss(state) != loss(state.replace(step=jnp.int32(1)))
    assert loss(state) != loss(state.replace(seed=jnp.uint32(1)))


def test_label_smoothing_by_hand():
    # Szegedy 2016, section 7: q(k) = (1 - 0.1) * [k is the label] + 0.1 / K.
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 5)), np.array([0, 1, 2, 3, 4, 4])
    q = 0.9 * np.eye(5)[labels] + 0.1 / 5
    expected = -(q * np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))).sum(1)
    losses = cross_entropy(jnp.float32(logits), jnp.asarray(labels), 0.1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_label_smoothing_applies_only_to_training(config):
    config.label_smoothing = 0.3
    model, state, _ = build(config)
    images, labels = make_batch(config)
    loss = quick_jit(make_loss(model, config, state, images, labels))
    mean, (losses, logits, _) = loss(state.params)
    np.testing.assert_allclose(losses, cross_entropy(logits, labels, 0.3), rtol=1e-6)
    np.testing.assert_allclose(mean, losses.mean(), rtol=1e-6)
    dataset = load_dataset(config.dataset)
    compiled_steps = CompiledSteps(config, dataset)
    arrays = compiled_steps.put(dataset.test)
    rows = np.arange(40, dtype=np.int32)[None]
    evaluated = quick_jit(make_evaluate(model))(state, arrays, rows)
    images, _ = arrays.batch(rows[0])
    logits = quick_jit(functools.partial(model.apply, train=False))(state.variables, images)
    expected = cross_entropy(logits, arrays.labels[:40]).sum()
    np.testing.assert_allclose(evaluated.loss, expected, rtol=1e-5)


def test_color_augmentation_is_a_function_of_seed_and_step(config):
    config.augment.color = 0.1
    model = create_model(config.model, 10)
    optimizer = make_optimizer(config)
    create = functools.partial(create_state, model, optimizer, config, (8, 8, 3))
    state = quick_jit(create)(0)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    labels = jnp.arange(4)

    @quick_jit
    def loss(state):
        return make_loss(model, config, state, images, labels)(state.params)[0]

    assert loss(state) == loss(state)
    assert loss(state) != loss(state.replace(step=jnp.int32(1)))
    assert loss(state) != loss(state.replace(seed=jnp.uint32(1)))


def test_color_augmentation_of_gray_images_is_refused(config):
    config.augment.color = 0.1
    with pytest.raises(ConfigError, match=r"not RGB, got 0\.1 with 1 channel$"):
        CompiledSteps(config, load_dataset(config.dataset))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_memorizes_a_batch(config, dtype):
    config.dtype = dtype
    config.learning_rate = 0.05
    config.boundaries = ()
    config.model.widths = (16, 16, 32)
    _, state, train_step = build(config)
    losses = []
    for _ in range(40):
        state, sums = train_step(state, *make_batch(config))
        losses.append(float(sums.loss / sums.count))
    assert losses[-1] < 0.1 * losses[0]


def test_several_steps_in_one_dispatch_equal_single_steps(config):
    dataset = load_dataset(config.dataset)
    compiled_steps = CompiledSteps(config, dataset)
    train = compiled_steps.put(dataset.train)
    rng = np.random.default_rng(0)
    indices = rng.integers(0, len(dataset.train), (4, config.batch_size), dtype=np.int32)
    single = compiled_steps.initial_state()
    one = compiled_steps.compile_train_steps(single, train, 1)
    for row in indices:
        single, _ = one(single, train, row[None])
    joint = compiled_steps.initial_state()
    four = compiled_steps.compile_train_steps(joint, train, 4)
    joint, metrics = four(joint, train, indices)
    assert int(metrics.sums.count) == 4 * config.batch_size
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), single, joint)


def test_the_state_is_donated(config):
    dataset = load_dataset(config.dataset)
    compiled_steps = CompiledSteps(config, dataset)
    train = compiled_steps.put(dataset.train)
    state = compiled_steps.initial_state()
    indices = np.zeros((1, config.batch_size), np.int32)
    step = compiled_steps.compile_train_steps(state, train, 1)
    after, metrics = step(state, train, indices)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    # The metrics of a step outlive the donation of its state to the next step.
    step(after, train, indices)
    assert int(metrics.sums.count) == config.batch_size
    assert float(metrics.learning_rate) == pytest.approx(config.learning_rate)


@pytest.mark.parametrize("batches", [1, 3])
def test_evaluation_uses_running_statistics_and_no_augmentation(config, batches):
    config.augment.pad = 2
    dataset = load_dataset(config.dataset)
    compiled_steps = CompiledSteps(config, dataset)
    model = create_model(config.model, 10)
    state = compiled_steps.initial_state()
    state = state.replace(batch_stats=jax.tree.map(lambda s: s + 0.3, state.batch_stats))
    test = compiled_steps.put(dataset.test)
    rows = np.array([4, 9, 200, -1, 7, -1], np.int32)
    sums = jax.jit(make_evaluate(model))(state, test, rows.reshape(batches, -1))
    images, _ = test.batch(np.arange(len(test.labels), dtype=np.int32))
    logits = np.asarray(model.apply(state.variables, images, train=False))
    valid_rows = rows[rows >= 0]
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    labels = dataset.test.labels
    assert int(sums.count) == len(valid_rows)
    assert int(sums.wrong) == (logits[valid_rows].argmax(1) != labels[valid_rows]).sum()
    np.testing.assert_allclose(
        sums.loss, -log_probabilities[valid_rows, labels[valid_rows]].sum(), rtol=1e-4
    )
