"""Counts of output shape, parameters, multiply-adds and activations of each layer of a model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flaxres.models.norms import separate_norms


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of a model.

    Attributes:
      name: path in the parameter tree.
      kind: class name of the module.
      output_shape: shape of the output for one image, without the batch axis.
      params: number of trainable parameters.
      macs: multiply-adds of a convolution or dense layer for one image, as the papers count them.
      activations: number of outputs of a convolution or dense layer for one image, as in
        Radosavovic 2020 (arXiv 2003.13678).
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    activations: int


def summarize(model: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """Lists the layers of a model in the order in which they run. No array is computed.

    Args:
      model: a model of `flaxres.models`.
      image_shape: (height, width, channels).
    """
    layers: list[Layer] = []

    def record(
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        output = call(*args, **kwargs)
        module = context.module
        params = module.variables.get("params", {})
        is_layer = params and not any(isinstance(value, dict) for value in params.values())
        path = "/".join(module.path)
        # A subclass of a flax module may call `__call__` of its base class.
        is_new = not layers or layers[-1].name != path
        if is_layer and is_new and context.method_name == "__call__":
            shape = output.shape[1:]
            # Each output value of a convolution or dense layer takes one multiply-add per weight
            # of its filter. The last axis of the kernel is the output channels.
            has_kernel = "kernel" in params
            layer = Layer(
                name=path,
                kind=type(module).__name__,
                output_shape=shape,
                params=sum(value.size for value in params.values()),
                macs=math.prod(shape[:-1]) * params["kernel"].size if has_kernel else 0,
                activations=math.prod(shape) if has_kernel else 0,
            )
            layers.append(layer)
        return output

    def forward(images: Float[Array, "batch height width channels"]) -> Any:
        with separate_norms(), nn.intercept_methods(record):
            return model.init_with_output(jax.random.key(0), images, train=False)

    jax.eval_shape(forward, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    return layers


def block_weights(layers: Sequence[Layer]) -> dict[int, int]:
    """Counts the convolution weights of a block, by its number of output channels (He15, figure 5).

    Only blocks that keep size and channels, whose shortcut is the identity, are included. Gates are
    not counted.

    Args:
      layers: the layers of one model, from `summarize`.

    Returns:
      Number of weights by number of channels; empty for a model without such blocks.
    """
    blocks: dict[str, list[Layer]] = {}
    for layer in layers:
        block, _, name = layer.name.rpartition("/")
        if layer.macs and name.startswith("conv") and not block.endswith("_block1"):
            blocks.setdefault(block, []).append(layer)
    blocks.pop("", None)  # convolutions outside of blocks
    return {
        convs[-1].output_shape[-1]: sum(conv.params for conv in convs)
        for block, convs in blocks.items()
        if "_block" in block
    }
