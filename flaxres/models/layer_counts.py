"""Layers of a model with output shape, params, MACs and activations, counted from the real module."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer as it ran.

    Attributes:
      name: path in the parameter tree.
      kind: class of the module.
      output_shape: of one image, without the batch axis.
      params: trainable parameters.
      macs: multiply-adds of convolutions and dense layers for one image, as the papers count.
      activations: outputs of a convolution or dense layer for one image, which is what Radosavovic
        2020 (arXiv 2003.13678) counts.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    activations: int


def summarize(model: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """Runs `model` on shapes alone and lists its layers in the order they ran.

    Args:
      model: a net of `flaxres.models`.
      image_shape: (height, width, channels).
    """
    layers = []

    def record(call, args, kwargs, context):
        output = call(*args, **kwargs)
        module = context.module
        own = module.variables.get("params", {})
        is_layer = own and not any(isinstance(value, dict) for value in own.values())
        path = "/".join(module.path)
        # A module that extends another of flax's may call that one's method on the way.
        is_new = not layers or layers[-1].name != path
        if is_layer and is_new and context.method_name == "__call__":
            shape = output.shape[1:]
            # Each output value of a convolution or dense layer takes one multiply-add per weight
            # of its filter; its channels are the kernel's last axis, the space is the rest.
            has_kernel = "kernel" in own
            macs = math.prod(shape[:-1]) * own["kernel"].size if has_kernel else 0
            params = sum(value.size for value in own.values())
            activations = math.prod(shape) if has_kernel else 0
            layers.append(Layer(path, type(module).__name__, shape, params, macs, activations))
        return output

    def forward(images):
        with nn.intercept_methods(record):
            return model.init_with_output(jax.random.key(0), images, train=False)

    jax.eval_shape(forward, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    return layers


def block_weights(layers: Sequence[Layer]) -> dict[int, int]:
    """Weights of the convolutions in a block by its channels: He15, figure 5.

    Of blocks that keep size and channels, so those of the identity shortcut; gates are not counted.
    A net without such blocks has none.
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
