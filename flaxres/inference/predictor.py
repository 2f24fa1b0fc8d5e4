"""Class probabilities of images under one trained model or an ensemble."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8
from ml_collections import ConfigDict

from flaxres.data.augment import normalize
from flaxres.data.resize import resize_mean
from flaxres.inference.trained_model import TrainedModel
from flaxres.parallel.sharding import AXIS, Devices, StepFunction, select_devices


class Predictor:
    """Computes log probabilities with one compiled program per batch shape.

    Probabilities (softmax of the logits) are averaged over models and, with `mirror`, over each
    image and its mirror image (Krizhevsky 2012, section 4.1). Results are logarithms, so the loss
    of a confidently wrong model stays finite.

    Attributes:
      num_classes: number of classes.
    """

    def __init__(
        self, trained_models: Sequence[TrainedModel], config: ConfigDict, mirror: bool = False
    ):
        """Replicates the models' variables on the devices.

        Args:
          trained_models: models with the same classes and image shape.
          config: config with the number of devices and the evaluation batch size.
          mirror: if True, averages over each image and its mirror image. Images are mirrored after
            the mean is subtracted, as in training.
        """
        self.num_classes = trained_models[0].input_spec.num_classes
        self._trained_models = trained_models
        self._mirror = mirror
        self._max_batch_size = config.eval_batch_size
        num_devices = min(config.num_devices, jax.local_device_count())  # those of this machine
        self._devices = Devices(select_devices(num_devices), config.parallelism)
        self._variables = self._devices.replicate([trained.variables for trained in trained_models])
        self._compiled: dict[tuple[int, ...], StepFunction] = {}
        self._means: dict[tuple[int, int], list[jax.Array]] = {}

    def batch_size(self, size: tuple[int, int], count: int) -> int:
        """Returns the batch size for images of one size, a multiple of the number of devices.

        Mirror images included, a batch has at most as many pixels as `eval_batch_size` images of
        the model's input size.

        Args:
          size: (height, width) of the images.
          count: number of images to evaluate; a batch is not larger.
        """
        height, width, _ = self._trained_models[0].input_spec.image_shape
        pixels_per_image = size[0] * size[1] * (2 if self._mirror else 1)
        max_images = max(1, self._max_batch_size * height * width // pixels_per_image)
        num_devices = self._devices.num_devices
        return -(-min(max_images, count) // num_devices) * num_devices

    def launch(
        self, images: UInt8[np.ndarray, "images height width channels"], batch_size: int
    ) -> Float32[Array, "batch classes"]:
        """Dispatches a batch and returns without waiting for the result.

        Args:
          images: at most `batch_size` images; the batch is padded with zeros.
          batch_size: number of images in the compiled program.

        Returns:
          Log probabilities. Rows after the first `images` belong to the padding.
        """
        padded = np.zeros((batch_size, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images
        _, height, width, _ = images.shape
        size = (height, width)
        if size not in self._means:
            means = [resize_mean(trained.input_spec.mean, size) for trained in self._trained_models]
            self._means[size] = self._devices.replicate(means)
        arrays = (self._devices.replicate(padded), self._means[size])
        rows = np.arange(batch_size, dtype=np.int32)[None]
        if padded.shape not in self._compiled:
            lowered = self._devices.lower(self._log_probabilities, self._variables, arrays, rows)
            self._compiled[padded.shape] = self._devices.compile(lowered)
        return self._compiled[padded.shape](self._variables, arrays, rows)

    def _log_probabilities(
        self, variables: list[dict], arrays: tuple[jax.Array, list[jax.Array]], rows: jax.Array
    ) -> jax.Array:
        images, means = arrays
        images = images[rows[0]]
        log_probabilities = []
        for trained, model_variables, mean in zip(
            self._trained_models, variables, means, strict=True
        ):
            x = normalize(images, mean)
            for view in (x, x[:, :, ::-1]) if self._mirror else (x,):
                logits = trained.logits(model_variables, view)
                log_probabilities.append(jax.nn.log_softmax(logits))
        log_mean = log_mean_exp(jnp.stack(log_probabilities))
        if self._devices.num_devices == 1:
            return log_mean
        return jax.lax.all_gather(log_mean, AXIS, tiled=True)


def log_mean_exp(
    log_probabilities: Float[Array, "parts images classes"],
) -> Float[Array, "images classes"]:
    """Returns the logarithm of the probabilities averaged over the first axis."""
    if len(log_probabilities) == 1:
        return log_probabilities[0]
    log_sum = jax.scipy.special.logsumexp(log_probabilities, axis=0)
    return log_sum - math.log(len(log_probabilities))
