"""Gradient and activation statistics of each layer in the next training step.

They are logged every `config.log_layers_every` steps, by a separate program, so the training step
is the same with and without them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, Float32, Int32
from ml_collections import ConfigDict

from flaxres.models import create_model
from flaxres.models.layer_counts import summarize
from flaxres.training.augmented_batch import pixel_augmentation
from flaxres.training.gradients import make_loss
from flaxres.training.steps import DeviceData
from flaxres.training.train_state import TrainState

PyTree = Any

QUANTITIES = ("gradient", "backward", "activation")


class LayerStatistics:
    """Statistics of every convolution and dense layer in the training step that follows a state.

    An instance is a function `(state, arrays, rows) -> {quantity: float32 (layers,)}`. The
    quantities are

    - gradient: L2 norm of the gradient of the mean loss with respect to the kernel, without weight
      decay;
    - backward: L2 norm of the gradient of the mean loss with respect to the layer's outputs for all
      images of the batch, the signal that is propagated backward through the network;
    - activation: root mean square of the layer's outputs, before the norm.

    The model is built without loops and rematerialization, so that every layer has a name.

    Attributes:
      names: names of the layers, from the input to the output.
    """

    def __init__(
        self,
        config: ConfigDict,
        image_shape: tuple[int, int, int],
        num_classes: int,
        axis: str | None = None,
        bn_axis: str | None = None,
    ):
        """Lists the layers of the model.

        Args:
          config: config of the run.
          image_shape: (height, width, channels).
          num_classes: number of classes of the data set.
          axis: name of the device axis over which the batch is sharded; None on a single device.
          bn_axis: name of the device axis over which batch statistics are computed; None if each
            device uses those of its shard.
        """
        fields = config.model.copy_and_resolve_references()
        fields.scan, fields.remat = False, False
        self._config, self._axis = config, axis
        self._model = create_model(
            fields, num_classes, config.dtype, bn_axis, config.transfer.frozen
        )
        single_device_model = create_model(fields, num_classes, config.dtype)
        self.names = [
            layer.name for layer in summarize(single_device_model, image_shape) if layer.macs
        ]

    def __call__(
        self, state: TrainState, arrays: DeviceData, rows: Int32[Array, "1 batch"]
    ) -> dict[str, Float32[Array, " layers"]]:
        """Returns the statistics of one training batch.

        Args:
          state: state before the step.
          arrays: the training split, or streamed batches.
          rows: int32 (1, images of this device), indices of the images of the batch.

        Returns:
          float32 (layers,) for each quantity, in the order of `names`.
        """
        augment_pixels = functools.partial(pixel_augmentation(self._config, self._axis), state)
        images, labels = arrays.batch(rows[0], augment_pixels)
        loss = make_loss(self._model, self._config, state, images, labels, self._axis)

        def loss_with_offsets(
            params: PyTree, offsets: dict[str, jax.Array]
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            """Returns the loss with `offsets` added to the layers' outputs, and these outputs."""
            outputs: dict[str, jax.Array] = {}

            def record_output(
                call: Callable[..., Any],
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
                context: nn.module.InterceptorContext,
            ) -> Any:
                output = call(*args, **kwargs)
                name = "/".join(context.module.path)
                if context.method_name != "__call__" or name not in self.names:
                    return output
                outputs[name] = output
                return output + offsets[name] if name in offsets else output

            with nn.intercept_methods(record_output):
                return loss(params)[0], outputs

        shapes = jax.eval_shape(loss_with_offsets, state.params, {})[1]
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        gradient_fn = jax.grad(loss_with_offsets, argnums=(0, 1), has_aux=True)
        (gradients, backward), outputs = gradient_fn(state.params, zeros)
        kernels = traverse_util.flatten_dict(self._mean_over_devices(gradients), sep="/")
        devices = 1 if self._axis is None else jax.lax.axis_size(self._axis)
        squares = {
            "gradient": [_sum_of_squares(kernels[f"{name}/kernel"]) for name in self.names],
            # Each device differentiates the mean over its own shard of the batch.
            "backward": [
                self._mean_over_devices(_sum_of_squares(backward[name])) / devices
                for name in self.names
            ],
            "activation": [
                self._mean_over_devices(_sum_of_squares(outputs[name]) / outputs[name].size)
                for name in self.names
            ],
        }
        return {name: jnp.sqrt(jnp.stack(values)) for name, values in squares.items()}

    def _mean_over_devices(self, tree: PyTree) -> PyTree:
        return tree if self._axis is None else jax.lax.pmean(tree, self._axis)

    def record(
        self, step: int, values: Mapping[str, Float[np.ndarray, " layers"]]
    ) -> dict[str, Any]:
        """Converts statistics to a record for layers.jsonl.

        Args:
          step: number of steps done before the batch.
          values: float32 (layers,) for each quantity, as NumPy arrays.

        Returns:
          {'step': step, 'gradient': {layer: number, ...}, ...}, with None for numbers that are not
          finite.
        """
        by_layer = {
            quantity: {
                name: float(number) if np.isfinite(number) else None
                for name, number in zip(self.names, numbers, strict=True)
            }
            for quantity, numbers in values.items()
        }
        return {"step": step, **{quantity: by_layer[quantity] for quantity in QUANTITIES}}


def _sum_of_squares(x: Float[Array, ...]) -> Float32[Array, ""]:
    return jnp.sum(jnp.square(x.astype(jnp.float32)))
