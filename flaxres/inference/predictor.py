"""Class probabilities by one trained net, or by several whose probabilities are averaged."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from flaxres.data.augment import normalize
from flaxres.data.resize import resize_mean
from flaxres.inference.trained_model import TrainedModel
from flaxres.parallel.sharding import AXIS, Devices, StepFunction


class Predictor:
    """Log probabilities of images, by compiled programs, one for each shape of a batch.

    Probabilities are the softmax of the logits; those of an image and its mirror image, and those
    of several nets, are averaged (Krizhevsky 2012, section 4.1). Their logarithms are kept, so that
    the loss of a net that is sure and wrong is not infinite.

    Attributes:
      num_classes: that there are.
    """

    def __init__(self, nets: Sequence[TrainedModel], config: ConfigDict, mirror: bool = False):
        """Puts the nets on the devices.

        Args:
          nets: of the same classes.
          config: says how many devices, and how many images a batch has.
          mirror: average with the mirror image; it is mirrored after the mean is subtracted, as the
            flips of the training are.
        """
        self.num_classes = nets[0].inputs.num_classes
        self._nets = nets
        self._mirror = mirror
        self._most = config.eval_batch_size
        self._devices = Devices(_of_evaluation(config))
        self._variables = self._devices.replicate([net.variables for net in nets])
        self._compiled: dict[tuple[int, ...], StepFunction] = {}
        self._means: dict[tuple[int, int], list[jax.Array]] = {}

    def batch_size(self, size: tuple[int, int], count: int) -> int:
        """Images of a batch of height and width `size`, of which there are `count` in all.

        A batch has as many pixels, with the mirror images, as `eval_batch_size` images of the net's
        size.
        """
        height, width, _ = self._nets[0].inputs.image_shape
        pixels = size[0] * size[1] * (2 if self._mirror else 1)
        most = max(1, self._most * height * width // pixels)
        devices = self._devices.num_devices
        return -(-min(most, count) // devices) * devices

    def launch(self, images: np.ndarray, batch_size: int) -> jax.Array:
        """Starts a batch and returns at once.

        Args:
          images: uint8 (n, height, width, channels).
          batch_size: at least n; the batch is filled up to it.

        Returns:
          float32 (batch_size, classes), log probabilities; the first n rows count.
        """
        filled = np.zeros((batch_size, *images.shape[1:]), np.uint8)
        filled[: len(images)] = images
        size = images.shape[1:3]
        if size not in self._means:
            means = [resize_mean(net.inputs.mean, size) for net in self._nets]
            self._means[size] = self._devices.replicate(means)
        arrays = (self._devices.replicate(filled), self._means[size])
        rows = np.arange(batch_size, dtype=np.int32)[None]
        if filled.shape not in self._compiled:
            self._compiled[filled.shape] = self._devices.compile(
                self._log_probabilities, self._variables, arrays, rows
            )
        return self._compiled[filled.shape](self._variables, arrays, rows)

    def _log_probabilities(
        self, variables: list[dict], arrays: tuple[jax.Array, list[jax.Array]], rows: jax.Array
    ) -> jax.Array:
        images, means = arrays
        images = images[rows[0]]
        parts = []
        for net, own, mean in zip(self._nets, variables, means, strict=True):
            x = normalize(images, mean)
            for view in (x, x[:, :, ::-1]) if self._mirror else (x,):
                parts.append(jax.nn.log_softmax(net.model.apply(own, view, train=False)))
        mean = average(jnp.stack(parts))
        if self._devices.num_devices == 1:
            return mean
        return jax.lax.all_gather(mean, AXIS, tiled=True)


def average(log_probabilities: jax.Array) -> jax.Array:
    """The logarithm of the mean over the first axis of what these are the logarithms of."""
    if len(log_probabilities) == 1:
        return log_probabilities[0]
    total = jax.scipy.special.logsumexp(log_probabilities, axis=0)
    return total - math.log(len(log_probabilities))


def _of_evaluation(config: ConfigDict) -> ConfigDict:
    """The config for the devices that there are, whatever the training had."""
    here = jax.local_device_count()
    config = config.copy_and_resolve_references()
    config.num_devices = min(config.num_devices, here)
    # Batches of an evaluation are filled up, so that of the training need not be shared evenly.
    config.batch_size = jax.process_count() * (config.num_devices or here)
    return config
