"""Losses of a training batch, whose labels may be smoothed and mixed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Float32, Int32
from ml_collections import ConfigDict

from flaxres.training.metrics import Leaf


@struct.dataclass
class Targets:
    """Labels of a batch: one for each image, or two with weights if images are mixed.

    Attributes:
      labels: int32 (batch,).
      partner_labels: int32 (batch,), labels of the images that are mixed in; None: not mixed.
      weights: float32 (batch,), weights of `labels`; `partner_labels` have 1 - weights. None: not
        mixed.
    """

    labels: Leaf
    partner_labels: Leaf = None
    weights: Leaf = None

    @property
    def main_labels(self) -> Int32[Array, " batch"]:
        """Labels with the larger weight, `labels` if both are equal. Training errors count them."""
        if self.weights is None:
            return self.labels
        return jnp.where(self.weights >= 0.5, self.labels, self.partner_labels)


def image_losses(
    config: ConfigDict, logits: Float[Array, "batch classes"], targets: Targets
) -> Float[Array, " batch"]:
    """Returns the training loss of each image.

    Args:
      config: config of the run; `loss`, `label_smoothing` and `loss_threshold` are used.
      logits: float32 (batch, classes).
      targets: labels of the batch.

    Returns:
      float32 (batch,), in nats.
    """
    if config.loss == "binary-cross-entropy":
        distribution = target_distribution(targets, logits.shape[-1], config.label_smoothing)
        if config.loss_threshold:
            distribution = (distribution > config.loss_threshold).astype(jnp.float32)
        return binary_cross_entropy(logits, distribution)
    losses = cross_entropy(logits, targets.labels, config.label_smoothing)
    if targets.weights is None:
        return losses
    # Cross-entropy is linear in the target: that of mixed labels is the mix of the two.
    partner_losses = cross_entropy(logits, targets.partner_labels, config.label_smoothing)
    return targets.weights * losses + (1 - targets.weights) * partner_losses


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int32[Array, " batch"], smoothing: float = 0.0
) -> Float[Array, " batch"]:
    """Returns the cross-entropy of each image, with label smoothing.

    Szegedy et al. 2016 (arXiv 1512.00567), section 7: (1 - smoothing) times the cross-entropy of
    the label, plus smoothing times the mean over all classes.

    Args:
      logits: float32 (batch, classes).
      labels: int32 (batch,).
      smoothing: weight given to the uniform distribution, in [0, 1).

    Returns:
      float32 (batch,), in nats.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not smoothing:
        return losses
    uniform_losses = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
    return (1 - smoothing) * losses + smoothing * uniform_losses


def binary_cross_entropy(
    logits: Float[Array, "batch classes"], distribution: Float[Array, "batch classes"]
) -> Float[Array, " batch"]:
    """Returns the binary cross-entropy of each image, averaged over the classes.

    Wightman et al. 2021 (arXiv 2110.00476), section 3.1, train each class as a question of its own
    that is answered with yes or no. timm's `BinaryCrossEntropy` averages over the classes too.

    Args:
      logits: float32 (batch, classes).
      distribution: float32 (batch, classes), targets in 0..1.

    Returns:
      float32 (batch,), in nats.
    """
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, distribution), axis=-1)


def target_distribution(
    targets: Targets, num_classes: int, smoothing: float
) -> Float32[Array, "batch classes"]:
    """Returns the weight of each class in the labels, after mixing and label smoothing.

    Args:
      targets: labels of the batch.
      num_classes: number of classes.
      smoothing: weight given to the uniform distribution, in [0, 1).
    """
    distribution = jax.nn.one_hot(targets.labels, num_classes)
    if targets.weights is not None:
        partners = jax.nn.one_hot(targets.partner_labels, num_classes)
        weights = targets.weights[:, None]
        distribution = weights * distribution + (1 - weights) * partners
    return (1 - smoothing) * distribution + smoothing / num_classes
