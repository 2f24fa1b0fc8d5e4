"""Augmentation policies against torchvision's classes of the same names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.config import default_config
from flaxres.data import policies
from flaxres.data.image_operations import OPERATIONS
from tests.conftest import quick_jit
from tests.pretrained.torchvision_import import import_torchvision

torchvision = import_torchvision()
from torchvision.transforms import autoaugment  # noqa: E402

SHAPE = (4_000, 32, 24, 3)


def theirs(name):
    """Returns torchvision's name of an operation."""
    return {"auto-contrast": "AutoContrast"}.get(name, name.title().replace("-", ""))


def draw(policy, shape=SHAPE, **fields):
    options = default_config().augment
    options.update(fields)
    drawn = quick_jit(lambda key: policies.POLICIES[policy](key, shape, options))
    operations, values = drawn(jax.random.key(0))
    return np.asarray(operations), np.asarray(values)


@pytest.mark.parametrize("wide", [False, True])
def test_values_are_those_of_torchvision(wide):
    if wide:
        space = autoaugment.TrivialAugmentWide()._augmentation_space(31)
    else:
        space = autoaugment.RandAugment()._augmentation_space(31, SHAPE[1:3])
    assert list(space) == [theirs(name) for name in OPERATIONS[: policies.NUM_DRAWN]]
    strengths = jnp.arange(31, dtype=jnp.float32)[:, None] / 30
    for index, (magnitudes, signed) in enumerate(space.values()):
        for negative in (False, True):
            operations = jnp.full((31, 1), index, jnp.int32)
            directions = jnp.full((31, 1), negative)
            actual = policies.operation_values(operations, strengths, directions, SHAPE, wide)
            expected = np.broadcast_to(magnitudes.numpy(), 31) * (-1 if signed and negative else 1)
            np.testing.assert_allclose(np.asarray(actual)[:, 0], expected, rtol=1e-5, atol=1e-4)


def test_the_pairs_of_autoaugment_are_those_of_torchvision():
    policy = autoaugment.AutoAugmentPolicy.CIFAR10
    expected = autoaugment.AutoAugment(policy)._get_policies(policy)
    actual = [
        tuple((theirs(name), probability, magnitude) for name, probability, magnitude in pair)
        for pair in policies.AUTOAUGMENT_CIFAR10
    ]
    assert actual == [tuple((name, p, m or 0) for name, p, m in pair) for pair in expected]


def assert_frequencies(counts, probabilities):
    """Checks counts within five standard deviations."""
    total, probabilities = sum(counts), np.asarray(probabilities)
    deviation = np.sqrt(total * probabilities * (1 - probabilities))
    np.testing.assert_array_less(np.abs(counts - total * probabilities), 5 * deviation + 1e-9)


def test_autoaugment_draws_each_operation_with_its_probability():
    operations, values = draw("autoaugment-cifar10")
    for slot in range(2):
        probabilities = np.zeros(len(OPERATIONS))
        for pair in policies.AUTOAUGMENT_CIFAR10:
            name, probability, _ = pair[slot]
            probabilities[OPERATIONS.index(name)] += probability / 25
            probabilities[0] += (1 - probability) / 25
        counts = np.bincount(operations[:, slot], minlength=len(OPERATIONS))
        assert_frequencies(counts, probabilities)
    translations = values[operations == OPERATIONS.index("translate-y")]
    sizes = np.unique(np.abs(translations).round(3))
    np.testing.assert_allclose(sizes, [150 / 331 * 32 * 3 / 9, 150 / 331 * 32], atol=1e-3)
    assert 0.4 < (translations > 0).mean() < 0.6


def test_randaugment_draws_operations_of_one_magnitude():
    operations, values = draw("randaugment", policy_operations=3, policy_magnitude=15)
    assert operations.shape == (4_000, 3)
    for slot in range(3):
        assert_frequencies(np.bincount(operations[:, slot], minlength=14), np.full(14, 1 / 14))
    rotations = values[operations == OPERATIONS.index("rotate")]
    np.testing.assert_allclose(np.abs(rotations), 15, rtol=1e-6)
    assert 0.4 < (rotations > 0).mean() < 0.6


def test_randaugment_with_the_options_of_timm():
    operations, values = draw(
        "randaugment", policy_probability=0.5, policy_magnitude=15, policy_magnitude_std=3
    )
    assert_frequencies(
        [(operations == 0).sum(), (operations != 0).sum()], [0.5 + 0.5 / 14, 0.5 * 13 / 14]
    )
    rotations = np.abs(values[operations == OPERATIONS.index("rotate")])
    assert abs(rotations.mean() - 15) < 0.8
    assert abs(rotations.std() - 3) < 0.6


def test_trivial_augment_draws_a_magnitude_for_each_image():
    operations, values = draw("trivial-augment")
    assert operations.shape == (4_000, 1)
    degrees = np.unique(np.abs(values[operations == OPERATIONS.index("rotate")]).round(3))
    np.testing.assert_allclose(degrees, 135 / 30 * np.arange(31), atol=2e-3)


@pytest.mark.parametrize("policy", policies.POLICIES)
def test_draws_do_not_depend_on_the_number_of_devices(policy):
    options = default_config().augment
    options.policy_magnitude_std, options.policy_probability = 1.5, 0.5
    key = jax.random.key(3)
    whole = quick_jit(lambda: policies.POLICIES[policy](key, (6, 8, 8, 3), options))()

    def on_device(_):
        return policies.POLICIES[policy](key, (2, 8, 8, 3), options, "data")

    sharded = quick_jit(jax.vmap(on_device, axis_name="data"))(np.arange(3))
    for shards, values in zip(sharded, whole, strict=True):
        np.testing.assert_array_equal(shards.reshape(values.shape), values)
