"""Layer-wise learning-rate decay: smaller learning rates for layers farther from the head.

Clark et al. 2020 (arXiv 2003.10555), appendix B, for the fine-tuning of text models; BEiT (Bao et
al. 2022, arXiv 2106.08254) for images. `config.layer_decay` is the factor from one group of
layers to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from flaxres.cpu import kernels
from flaxres.models.layers import HEAD

PyTree = Any


def learning_rate_factors(
    model: nn.Module,
    config: ConfigDict,
    params: Mapping[str, PyTree],
    image_shape: Sequence[int],
) -> dict[str, float]:
    """Returns the factor on the learning rate of each top-level layer of a model.

    It is layer_decay^k for the k-th group of layers before the classification head (`layer_groups`)
    and 1 for the head. Parameters of the model itself, outside of any layer, have that of the last
    group before the head.

    Args:
      model: the model; it is traced to learn the order in which it calls its layers.
      config: config of the run. With `layer_decay` 1 nothing is traced.
      params: parameters of the model.
      image_shape: (height, width, channels).

    Returns:
      Factors by name of the layer; {} with `layer_decay` 1.
    """
    if config.layer_decay == 1:
        return {}
    groups = layer_groups(layer_order(model, image_shape), params)
    distances = {
        layer: len(groups) - number for number, group in enumerate(groups) for layer in group
    }
    factors = {layer: config.layer_decay ** distances.get(layer, 1) for layer in params}
    return factors | {HEAD: 1.0}


def layer_order(model: nn.Module, image_shape: Sequence[int]) -> list[str]:
    """Returns the names of a model's top-level layers, in the order of their calls.

    Args:
      model: the model.
      image_shape: (height, width, channels).
    """
    order: dict[str, None] = {}

    def record(
        next_call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        order.update(dict.fromkeys(context.module.path[:1]))
        return next_call(*args, **kwargs)

    def initialize(images: Float[Array, "1 height width channels"]) -> PyTree:
        with nn.intercept_methods(record), kernels.kernels_disabled():
            return model.init(jax.random.key(0), images, train=False)

    jax.eval_shape(initialize, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    return list(order)


def layer_groups(order: Sequence[str], params: Mapping[str, PyTree]) -> list[list[str]]:
    """Returns the groups of layers that share a learning rate, from the stem to the last block.

    A block is a group; norms between blocks belong to the group before them. The layers before the
    first block are the first group, the stem. In a model without blocks, such as VGG, every
    convolution or hidden layer with its norm is a group.

    Args:
      order: names of the top-level layers in the order of their calls.
      params: parameters of the model.
    """
    layers = [name for name in order if name in params and name != HEAD]
    blocks = {name for name in layers if _is_block(params[name])}
    first = next((i for i, name in enumerate(layers) if name in blocks), 0)
    groups = [layers[:first]] if first else []
    for name in layers[first:]:
        if groups and name not in blocks and "kernel" not in params[name]:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def _is_block(params: PyTree) -> bool:
    """Returns True for the parameters of a layer that consists of layers."""
    return isinstance(params, Mapping) and any(isinstance(v, Mapping) for v in params.values())
