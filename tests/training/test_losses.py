"""Losses of mixed and smoothed labels against timm and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxres.config import check_config, default_config
from flaxres.errors import ConfigError
from flaxres.training.losses import Targets, image_losses
from tests.pretrained.torchvision_import import import_torchvision, torch

CLASSES = 7


def make_batch():
    logits = jax.random.normal(jax.random.key(0), (6, CLASSES))
    labels = jnp.array([0, 3, 6, 2, 2, 5], jnp.int32)
    return logits, labels


def make_targets(labels, weight):
    return Targets(labels, labels[::-1], jnp.full(labels.shape, weight, jnp.float32))


@pytest.fixture
def timm():
    import_torchvision()
    pytest.importorskip("timm", reason="pip install timm")
    import timm.data.mixup
    import timm.loss

    return timm


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [0.3, 1.0])
@pytest.mark.parametrize(
    ("loss", "threshold"),
    [("cross-entropy", 0.0), ("binary-cross-entropy", 0.0), ("binary-cross-entropy", 0.2)],
)
def test_mixed_labels(timm, smoothing, weight, loss, threshold):
    config = default_config()
    config.loss, config.loss_threshold, config.label_smoothing = loss, threshold, smoothing
    logits, labels = make_batch()
    actual = image_losses(config, logits, make_targets(labels, weight)).mean()
    ours, theirs = torch.from_numpy(np.array(logits)), torch.from_numpy(np.array(labels))
    target = timm.data.mixup.mixup_target(theirs, CLASSES, weight, smoothing)
    if loss == "cross-entropy":
        loss_fn = timm.loss.SoftTargetCrossEntropy()
    else:
        loss_fn = timm.loss.BinaryCrossEntropy(smoothing, threshold or None)
    np.testing.assert_allclose(actual, loss_fn(ours, target).item(), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_of_labels(timm, smoothing):
    config = default_config()
    config.loss, config.label_smoothing = "binary-cross-entropy", smoothing
    logits, labels = make_batch()
    ours, theirs = torch.from_numpy(np.array(logits)), torch.from_numpy(np.array(labels))
    expected = timm.loss.BinaryCrossEntropy(smoothing)(ours, theirs).item()
    actual = image_losses(config, logits, Targets(labels)).mean()
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_errors_count_the_label_with_the_larger_weight():
    labels = jnp.array([1, 2, 3], jnp.int32)
    for weight, expected in ((0.7, [1, 2, 3]), (0.5, [1, 2, 3]), (0.3, [3, 2, 1])):
        np.testing.assert_array_equal(make_targets(labels, weight).main_labels, expected)
    np.testing.assert_array_equal(Targets(labels).main_labels, labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "bce"}, "loss must be one of cross-entropy, binary-cross-entropy, got 'bce'"),
        ({"loss_threshold": 0.2}, "loss_threshold must be 0.0 .its default. unless loss is binary"),
        ({"loss": "binary-cross-entropy", "loss_threshold": 1.0}, "at least 0 and below 1"),
    ],
)
def test_invalid_losses(changes, message):
    config = default_config()
    config.update(changes)
    with pytest.raises(ConfigError, match=message):
        check_config(config)
