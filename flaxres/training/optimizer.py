"""Optimizers with weight decay.

The default follows He et al. 2015 (arXiv 1512.03385), section 4.2: SGD with momentum. The update
does not contain the learning rate (`flaxres.training.learning_rate`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from flax import traverse_util
from ml_collections import ConfigDict

from flaxres.training.clipping import clip_by_global_norm
from flaxres.training.fine_tuning import frozen_leaves

PyTree = Any


def kernel_mask(params: PyTree) -> PyTree:
    """Returns True for the kernels of convolutions and dense layers, False for other parameters."""
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: path[-1] == "kernel" for path in flat})


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns the transformation of gradients into directions, to be scaled by the learning rate.

    The learning rate is applied afterwards, w = w - learning_rate * direction. With the gradient g,
    the weights w, and d = `weight_decay`, `config.optimizer` is one of

    - 'sgd': v = momentum * v + (g + d * w), the direction. A drop of the learning rate scales the
      whole velocity at once, as in PyTorch. (Caffe keeps the learning rate inside the velocity.)
      With `config.nesterov` it is g + d * w + momentum * v, as in PyTorch: Sutskever et al. 2013,
      "On the importance of initialization and momentum in deep learning", section 2, written in
      terms of the look-ahead parameters.
    - 'adamw': m / (sqrt(s) + epsilon) + d * w, for the means m of g and s of g * g with corrected
      bias: Loshchilov and Hutter 2019 (arXiv 1711.05101), algorithm 2. PyTorch's and optax's.
    - 'lars': the gradient g + d * w of every array is scaled by `trust_ratio.coefficient` * |w| /
      |g + d * w| before the momentum: You et al. 2017 (arXiv 1708.03888), algorithm 1. There the
      learning rate is inside the velocity, and the denominator is |g| + d * |w|; `optax.lars`
      differs in the first only.
    - 'lamb': the direction of 'adamw', scaled to the norm |w| of every array: You et al. 2020
      (arXiv 1904.00962), algorithm 2.

    Weight decay does not apply to frozen layers (`flaxres.training.fine_tuning`), and with
    `weight_decay_on='kernels'` only to kernels. The ratio of norms applies to kernels unless
    `trust_ratio.parameters` is 'all'. With `clip_norm`, gradients are clipped first
    (`flaxres.training.clipping`).
    """
    parts = [_OPTIMIZERS[config.optimizer](config)]
    if config.clip_norm:
        parts.insert(0, clip_by_global_norm(config.clip_norm))
    return parts[0] if len(parts) == 1 else optax.chain(*parts)


def _weight_decay(config: ConfigDict) -> optax.GradientTransformation:
    """Returns the transformation that adds weight_decay * w to its input."""

    def decay_mask(params: PyTree) -> PyTree:
        mask = jax.tree.map(lambda frozen: not frozen, frozen_leaves(config, params))
        if config.weight_decay_on == "kernels":
            mask = jax.tree.map(lambda a, b: a and b, mask, kernel_mask(params))
        return mask

    is_masked = config.weight_decay_on == "kernels" or len(config.transfer.frozen) > 0
    return optax.add_decayed_weights(config.weight_decay, decay_mask if is_masked else None)


def _trust_ratio(config: ConfigDict, coefficient: float) -> optax.GradientTransformation:
    """Returns the transformation that scales each array to coefficient * |w|, if none is 0."""
    scale = optax.scale_by_trust_ratio(trust_coefficient=coefficient)
    return scale if config.trust_ratio.parameters == "all" else optax.masked(scale, kernel_mask)


def _momentum(config: ConfigDict) -> optax.GradientTransformation:
    return optax.trace(config.momentum, nesterov=config.nesterov)


def _adam(config: ConfigDict) -> optax.GradientTransformation:
    return optax.scale_by_adam(config.adam.beta1, config.adam.beta2, config.adam.epsilon)


def _sgd(config: ConfigDict) -> optax.GradientTransformation:
    return optax.chain(_weight_decay(config), _momentum(config))


def _adamw(config: ConfigDict) -> optax.GradientTransformation:
    return optax.chain(_adam(config), _weight_decay(config))


def _lars(config: ConfigDict) -> optax.GradientTransformation:
    scale = _trust_ratio(config, config.trust_ratio.coefficient)
    return optax.chain(_weight_decay(config), scale, _momentum(config))


def _lamb(config: ConfigDict) -> optax.GradientTransformation:
    return optax.chain(_adam(config), _weight_decay(config), _trust_ratio(config, 1.0))


_OPTIMIZERS: Mapping[str, Callable[[ConfigDict], optax.GradientTransformation]] = {
    "sgd": _sgd,
    "adamw": _adamw,
    "lars": _lars,
    "lamb": _lamb,
}
