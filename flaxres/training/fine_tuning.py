"""Training on from weights of another task: a new head, frozen layers, a slower body.

Yosinski et al. 2014 (arXiv 1411.1792), section 2: the first layers of a net that was trained on one
set of classes are taken over for another, and are either frozen or fine-tuned; the last dense layer
begins anew. The fields are those of `config.transfer`; where none is used, training is the same bit
for bit.

Frozen batch norm takes two things. The norms in frozen layers are built to normalise by their
running statistics in training too (`flaxres.models.layers.BaseModel.frozen`), so that the layers compute
what they did when their weights were made; and no gradient, weight decay or momentum reaches their
params (`frozen_params_are_constants`, `flaxres.training.optimizer.make_optimizer`).
"""

from __future__ import annotations

from typing import Any

import jax
from flax import traverse_util
from ml_collections import ConfigDict

from flaxres.errors import ConfigError, first_few
from flaxres.models.layers import BACKBONE, HEAD, is_frozen

PyTree = Any

MAX_NAMES = 12  # in a message


def check_frozen(config: ConfigDict, params: PyTree) -> None:
    """Checks that `config.transfer.frozen` names layers of the net, and not all of them.

    Args:
      config: the experiment.
      params: of the net, as arrays or their shapes.

    Raises:
      ConfigError: a name that the net does not have, or nothing is left to train.
    """
    frozen = config.transfer.frozen
    for name in frozen:
        if not any(is_frozen(layer, [name]) for layer in params):
            stages = sorted({layer.partition("_")[0] for layer in params if "_" in layer})
            names = dict.fromkeys(
                [BACKBONE, *(s for s in stages if s.startswith("stage")), *sorted(params)]
            )
            raise ConfigError(
                f"transfer.frozen must be of {first_few(list(names), MAX_NAMES)}; this net has no {name!r}"
            )
    if frozen and all(is_frozen(layer, frozen) for layer in params):
        raise ConfigError(
            f"transfer.frozen must leave something to train, got {', '.join(frozen)}: all layers"
        )


def frozen_leaves(config: ConfigDict, tree: PyTree) -> PyTree:
    """True for the leaves of frozen layers; `tree` are a net's params or batch statistics."""
    flat = traverse_util.flatten_dict(tree)
    frozen = config.transfer.frozen
    return traverse_util.unflatten_dict({path: is_frozen(path[0], frozen) for path in flat})


def frozen_params_are_constants(config: ConfigDict, params: PyTree) -> PyTree:
    """The same params, of which no gradient is taken in frozen layers: it is zero.

    Where frozen layers come first, nothing is propagated back through them.
    """
    if not config.transfer.frozen:
        return params
    frozen = frozen_leaves(config, params)
    return jax.tree.map(lambda w, is_: jax.lax.stop_gradient(w) if is_ else w, params, frozen)


def keep_frozen(config: ConfigDict, old: PyTree, new: PyTree) -> PyTree:
    """The leaves of `new`, but those of `old` in frozen layers."""
    if not config.transfer.frozen:
        return new
    return jax.tree.map(lambda o, n, is_: o if is_ else n, old, new, frozen_leaves(config, new))


def update_params(config: ConfigDict, params: PyTree, velocity: PyTree, rate: jax.Array) -> PyTree:
    """Params after a step, w - rate * v; with `transfer.backbone_learning_rate_scale` times the rate but in the head.

    Frozen layers stay as they are.

    Args:
      config: the experiment.
      params: of the net, float32.
      velocity: of the same shapes, from the optimizer.
      rate: float32, the learning rate of this step.
    """
    backbone_learning_rate_scale = (
        rate
        if config.transfer.backbone_learning_rate_scale == 1
        else rate * config.transfer.backbone_learning_rate_scale
    )
    new = {
        layer: jax.tree.map(
            lambda w, v, own=rate if layer == HEAD else backbone_learning_rate_scale: w - own * v,
            w,
            velocity[layer],
        )
        for layer, w in params.items()
    }
    return keep_frozen(config, params, new)
