"""Fine-tuning from pretrained weights: frozen layers and a smaller backbone learning rate.

Yosinski et al. 2014 (arXiv 1411.1792), section 2: the first layers of a network trained on one set
of classes are reused for another set and are either frozen or fine-tuned; the classification head
is replaced by a new one. The options are the fields of `config.transfer`. With their defaults,
training is the same bit for bit as without this module.

A frozen layer with batch norm needs two measures. In training too, its norms normalize by the
running statistics (`flaxres.models.layers.BaseModel.frozen`), so that the layer computes the
function it was pretrained to compute. And its parameters receive no gradient, weight decay or
momentum (`stop_frozen_gradients`, `flaxres.training.optimizer.make_optimizer`).
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

import jax
from flax import traverse_util
from jaxtyping import Array, Float32
from ml_collections import ConfigDict

from flaxres.errors import ConfigError, first_few
from flaxres.models.layers import BACKBONE, HEAD, is_frozen
from flaxres.suggestions import did_you_mean

PyTree = Any

MAX_NAMES = 12  # layer names listed in an error message


def check_frozen(config: ConfigDict, params: PyTree) -> None:
    """Checks that `config.transfer.frozen` names layers of the model, but not all of them.

    Args:
      config: config of the run.
      params: parameters of the model, as arrays or shape structs.

    Raises:
      ConfigError: the model has no layer of that name, or no layer is left to train.
    """
    frozen = config.transfer.frozen
    for name in frozen:
        if not any(is_frozen(layer, [name]) for layer in params):
            prefixes = sorted({layer.partition("_")[0] for layer in params if "_" in layer})
            stages = [prefix for prefix in prefixes if prefix.startswith("stage")]
            names = dict.fromkeys([BACKBONE, *stages, *sorted(params)])
            raise ConfigError(
                f"transfer.frozen must name layers of the model "
                f"({first_few(list(names), MAX_NAMES)}), got {name!r}{did_you_mean(name, names)}"
            )
    if frozen and all(is_frozen(layer, frozen) for layer in params):
        raise ConfigError(
            f"transfer.frozen must leave at least one layer to train, got {', '.join(frozen)}"
        )


def frozen_leaves(config: ConfigDict, tree: PyTree) -> PyTree:
    """Returns True for the leaves of frozen layers, False for the others.

    Args:
      config: config of the run.
      tree: parameters or batch statistics of the model.
    """
    flat = traverse_util.flatten_dict(tree)
    frozen = config.transfer.frozen
    return traverse_util.unflatten_dict({path: is_frozen(path[0], frozen) for path in flat})


def stop_frozen_gradients(config: ConfigDict, params: PyTree) -> PyTree:
    """Returns the same parameters, with zero gradients for frozen layers.

    Nothing is propagated back through frozen layers that come first.
    """
    if not config.transfer.frozen:
        return params
    frozen = frozen_leaves(config, params)
    return jax.tree.map(
        lambda w, is_leaf_frozen: jax.lax.stop_gradient(w) if is_leaf_frozen else w, params, frozen
    )


def keep_frozen(config: ConfigDict, old: PyTree, new: PyTree) -> PyTree:
    """Returns `new`, with the leaves of frozen layers taken from `old`."""
    if not config.transfer.frozen:
        return new
    return jax.tree.map(
        lambda o, n, is_leaf_frozen: o if is_leaf_frozen else n,
        old,
        new,
        frozen_leaves(config, new),
    )


def update_params(
    config: ConfigDict,
    params: PyTree,
    velocity: PyTree,
    learning_rate: Float32[Array, ""],
    factors: Mapping[str, float] = types.MappingProxyType({}),
) -> PyTree:
    """Returns the parameters after one step: w - learning_rate * v.

    The backbone uses `transfer.backbone_learning_rate_scale` times the learning rate. Frozen layers
    keep their parameters. Parameters of shape (1,), the scalars of `flaxres.models.multipliers`,
    use `scalar_learning_rate_scale` times the learning rate of their layer.

    Args:
      config: config of the run.
      params: parameters of the model, float32.
      velocity: output of the optimizer, in the structure of `params`.
      learning_rate: learning rate of the step.
      factors: factors on it by layer (`flaxres.training.layer_decay`); 1 for other layers.
    """
    scale = config.transfer.backbone_learning_rate_scale
    backbone_learning_rate = learning_rate if scale == 1 else learning_rate * scale

    def update_layer(layer: str) -> PyTree:
        layer_learning_rate = learning_rate if layer == HEAD else backbone_learning_rate
        if factors.get(layer, 1) != 1:
            layer_learning_rate = layer_learning_rate * factors[layer]
        scalar_learning_rate = layer_learning_rate
        if config.scalar_learning_rate_scale != 1:
            scalar_learning_rate = layer_learning_rate * config.scalar_learning_rate_scale
        return jax.tree.map(
            lambda w, v: w - (scalar_learning_rate if w.shape == (1,) else layer_learning_rate) * v,
            params[layer],
            velocity[layer],
        )

    return keep_frozen(config, params, {layer: update_layer(layer) for layer in params})
