"""Gradients and activations of each layer, as the next training step would meet them.

Logged every `config.log_layers_every` steps, by a program of its own: the training step is the same
with and without.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from flaxres.data.augment import normalize
from flaxres.models import create_model
from flaxres.models.layer_counts import summarize
from flaxres.training.steps import DeviceData, make_loss
from flaxres.training.train_state import TrainState

QUANTITIES = ("gradient", "backward", "activation")


class LayerStatistics:
    """Statistics of every convolution and dense layer in the step that follows a state.

    A function `(state, arrays, rows) -> {quantity: float32 (layers,)}` of the batch `rows`, int32
    (1, images of this device):

    - gradient: L2 norm of the gradient of the mean loss with respect to the kernel, without L2;
    - backward: that with respect to the layer's outputs for all images of the batch, which is what
      is propagated backwards through the net;
    - activation: root mean square of the layer's outputs, before the norm.

    The net's loops are taken apart, and nothing is rematerialised, for layers to have names.

    Attributes:
      names: of the layers, from the first on.
    """

    def __init__(
        self,
        config: ConfigDict,
        image_shape: tuple[int, int, int],
        num_classes: int,
        axis: str | None = None,
        bn_axis: str | None = None,
    ):
        """Finds the layers of the config's net.

        Args:
          config: the experiment.
          image_shape: (height, width, channels).
          num_classes: of its data set.
          axis: of the devices that share a batch; see `flaxres.training.steps`.
          bn_axis: of those whose images batch norm takes together.
        """
        fields = config.model.copy_and_resolve_references()
        fields.scan, fields.remat = False, False
        self._config, self._axis = config, axis
        self._model = create_model(
            fields, num_classes, config.dtype, bn_axis, config.transfer.frozen
        )
        alone = create_model(fields, num_classes, config.dtype)
        self.names = [layer.name for layer in summarize(alone, image_shape) if layer.macs]

    def __call__(
        self, state: TrainState, arrays: DeviceData, rows: jax.Array
    ) -> dict[str, jax.Array]:
        """See the class."""
        images, labels = normalize(arrays.images[rows[0]], arrays.mean), arrays.labels[rows[0]]
        loss = make_loss(self._model, self._config, state, images, labels, self._axis)

        def watched(params: dict, offsets: dict[str, jax.Array]):
            """The loss with `offsets` added to the layers' outputs, and these outputs."""
            outputs: dict[str, jax.Array] = {}

            def watch(call, arguments, options, context):
                y = call(*arguments, **options)
                path = "/".join(context.module.path)
                if context.method_name != "__call__" or path not in self.names:
                    return y
                outputs[path] = y
                return y + offsets[path] if path in offsets else y

            with nn.intercept_methods(watch):
                return loss(params)[0], outputs

        shapes = jax.eval_shape(watched, state.params, {})[1]
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        differentiate = jax.grad(watched, argnums=(0, 1), has_aux=True)
        (gradients, backward), outputs = differentiate(state.params, zeros)
        kernels = traverse_util.flatten_dict(self._mean(gradients), sep="/")
        devices = 1 if self._axis is None else jax.lax.axis_size(self._axis)
        squares = {
            "gradient": [_sum_of_squares(kernels[f"{name}/kernel"]) for name in self.names],
            # Each device has differentiated the mean over its own images.
            "backward": [
                self._mean(_sum_of_squares(backward[name])) / devices for name in self.names
            ],
            "activation": [
                self._mean(_sum_of_squares(outputs[name]) / outputs[name].size)
                for name in self.names
            ],
        }
        return {name: jnp.sqrt(jnp.stack(values)) for name, values in squares.items()}

    def _mean(self, tree):
        """The mean over the devices."""
        return tree if self._axis is None else jax.lax.pmean(tree, self._axis)

    def record(self, step: int, values: Mapping[str, np.ndarray]) -> dict[str, object]:
        """What a call returned, fetched, as a record for layers.jsonl.

        {'step': step, 'gradient': {layer: number, ...}, ...}; None where it is not finite.
        """
        by_layer = {
            quantity: {
                name: float(value) if np.isfinite(value) else None
                for name, value in zip(self.names, numbers, strict=True)
            }
            for quantity, numbers in values.items()
        }
        return {"step": step, **{quantity: by_layer[quantity] for quantity in QUANTITIES}}


def _sum_of_squares(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(x.astype(jnp.float32)))
