"""mixup and CutMix against timm, and by their properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.config import default_config
from flaxres.data.mixing import cutmix_box, mix, reverse_batch
from tests.conftest import quick_jit
from tests.pretrained.torchvision_import import import_torchvision, torch


def make_options(**fields):
    options = default_config().augment
    options.update(fields)
    return options


def make_batch(n=6, height=7, width=9):
    images = jax.random.normal(jax.random.key(1), (n, height, width, 3))
    return images, jnp.arange(n, dtype=jnp.int32)


@pytest.fixture
def timm_mixup():
    """Returns timm's module, whose import needs torchvision."""
    import_torchvision()
    return pytest.importorskip("timm.data.mixup", reason="pip install timm")


@pytest.mark.parametrize("method", ["mixup", "cutmix"])
def test_mixed_batches_of_timm(timm_mixup, monkeypatch, method):
    options = make_options(**{method: 0.8})
    images, labels = make_batch()
    for seed in range(3):
        key = jax.random.key(seed)
        _, _, weight_key, box_key = jax.random.split(key, 4)
        weight = float(jax.random.beta(weight_key, 0.8, 0.8))
        center = iter(np.asarray(jax.random.randint(box_key, (2,), 0, jnp.array([7, 9]))))
        monkeypatch.setattr(np.random, "beta", lambda *_, value=weight: value)
        monkeypatch.setattr(np.random, "randint", lambda *_, center=center, **__: next(center))
        mixer = timm_mixup.Mixup(
            mixup_alpha=options.mixup, cutmix_alpha=options.cutmix, num_classes=6,
            label_smoothing=0.0,
        )  # fmt: skip
        tensor = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).contiguous()
        expected, target = mixer(tensor, torch.arange(6))
        mixed, partners, weights = mix(key, images, labels, options)
        np.testing.assert_allclose(mixed, expected.permute(0, 2, 3, 1), atol=1e-6)
        actual = (
            weights[:, None] * jnp.eye(6)[labels] + (1 - weights)[:, None] * jnp.eye(6)[partners]
        )
        np.testing.assert_allclose(actual, target, atol=1e-6)


def mix_steps(num_steps, images, **fields):
    """Mixes a batch in each of many steps; returns images, partners and weights with that axis."""
    options = make_options(**fields)
    labels = jnp.arange(len(images), dtype=jnp.int32)
    keys = jax.random.split(jax.random.key(0), num_steps)
    return quick_jit(jax.vmap(lambda key: mix(key, images, labels, options)))(keys)


@pytest.mark.parametrize("method", ["mixup", "cutmix"])
def test_a_step_that_does_not_mix_changes_nothing(method):
    images, _ = make_batch()
    mixed, _, weights = mix_steps(2, images, mixing_probability=0.0, **{method: 1.0})
    np.testing.assert_array_equal(mixed, jnp.broadcast_to(images, mixed.shape))
    np.testing.assert_array_equal(weights, 1)


BLACK_AND_WHITE = jnp.broadcast_to(jnp.array([0.0, 1.0])[:, None, None, None], (2, 8, 8, 1))


def test_cutmix_weights_are_the_parts_of_the_images_that_remain():
    mixed, _, weights = mix_steps(500, BLACK_AND_WHITE, cutmix=1.0, mixing_probability=0.5)
    assert abs((weights[:, 0] < 1).mean() - 0.5) < 0.1
    np.testing.assert_allclose(weights[:, 0], 1 - mixed[:, 0].mean((1, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(weights[:, 1], mixed[:, 1].mean((1, 2, 3)), atol=1e-6)


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0), (0.25, 0.25)])
def test_one_of_both_methods_is_chosen_for_each_step(probability, expected):
    mixed, _, weights = mix_steps(
        2_000, BLACK_AND_WHITE[:, :2, :2], mixup=1.0, cutmix=1.0, cutmix_probability=probability
    )
    is_mixup = (mixed[:, 0, 0, 0, 0] == mixed[:, 0, 1, 1, 0]) & (weights[:, 0] < 1)
    is_cutmix = (mixed == 0) | (mixed == 1)
    assert abs(is_cutmix.all((1, 2, 3, 4)).mean() - expected) < 0.1
    if probability == 0:
        # Beta(1, 1) is uniform, with the variance 1 / 12.
        assert is_mixup.mean() > 0.99
        assert abs(weights[:, 0].mean() - 0.5) < 4 * np.sqrt(1 / 12 / 2_000)
        np.testing.assert_allclose(weights[:, 0].var(), 1 / 12, rtol=0.1)


def test_a_box_of_weight_zero_and_one():
    assert not cutmix_box(jax.random.key(0), jnp.float32(1), (8, 8)).any()
    box = cutmix_box(jax.random.key(0), jnp.float32(0), (8, 8))
    assert box.sum() >= 16  # at least a quarter, if the center is a corner


@pytest.mark.parametrize("num_devices", [2, 3])
def test_mixing_does_not_depend_on_the_number_of_devices(num_devices):
    images, labels = make_batch()
    options = make_options(mixup=0.3, cutmix=1.0)
    shards = jax.tree.map(lambda a: a.reshape(num_devices, -1, *a.shape[1:]), (images, labels))
    key = jax.random.key(0)
    whole = quick_jit(lambda: mix(key, images, labels, options))()
    on_device = jax.vmap(lambda x, y: mix(key, x, y, options, "data"), axis_name="data")
    for actual, expected in zip(quick_jit(on_device)(*shards), whole, strict=True):
        np.testing.assert_allclose(actual.reshape(expected.shape), expected, atol=1e-6)
    np.testing.assert_array_equal(reverse_batch(labels), [5, 4, 3, 2, 1, 0])
