"""Plain networks with other initial kernels or activations than those of He15.

These make deep networks trainable without shortcuts: `flaxres.models.initializers` and
`flaxres.models.activations` have the sources. With the defaults, a plain network is a
`flaxres.models.resnet.ResNet`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from flax import linen as nn
from ml_collections import ConfigDict

from flaxres.models import resnet_families
from flaxres.models.activations import ACTIVATIONS, SQUARED_GAINS, make_activation
from flaxres.models.family import require, require_one_of
from flaxres.models.initializers import INITS, make_kernel_init
from flaxres.models.layers import BaseModel, Layers
from flaxres.models.norms import NoNorm
from flaxres.models.resnet import LAYERS_PER_BLOCK, ResNet, stages_of_depth


class PlainNet(ResNet, kw_only=True):
    """Plain network of `ResNet` with a choice of initial kernels and activation.

    Attributes:
      kernel_init: initial kernels of the convolutions, one of `initializers.INITS`.
      activation: one of `activations.ACTIVATIONS`; with a norm, 'relu'.
      tailored_eta: correlation for which 'tailored-relu' is solved
        (`flaxres.models.activations.tailored_slope`).

    Raises (when called):
      ConfigError: a convolution would reduce the number of channels, and the kernels are
        delta-orthogonal or dirac.
    """

    kernel_init: str = "he"
    activation: str = "relu"
    tailored_eta: float = 0.9

    def layers(self, train: bool, name: str = "") -> Layers:
        """Returns constructors of convolutions and norms, as in `BaseModel.layers`."""
        conv, norm = super().layers(train, name)
        kernel_init = make_kernel_init(self.kernel_init, SQUARED_GAINS[self.activation])

        def initialized_conv(*args: Any, **options: Any) -> nn.Module:
            return conv(*args, **(options | {"kernel_init": kernel_init}))

        if self.activation != "relu":
            num_layers = _num_layers(self.block, self.stages)
            activation = make_activation(self.activation, num_layers, self.tailored_eta)
            norm = functools.partial(NoNorm, activation=activation)
        return Layers(initialized_conv, norm)


def num_activations(model: ConfigDict) -> int:
    """Returns the number of layers with an activation, one after the other.

    Args:
      model: `config.model` of a plain network.
    """
    return _num_layers(model.block, stages_of_depth(model.depth, model.block, model.stem))


def _num_layers(block: str, stages: tuple[int, ...]) -> int:
    return 1 + LAYERS_PER_BLOCK[block] * sum(stages)


_RESNET = resnet_families.FAMILIES["plain"]


def _check(model: ConfigDict) -> None:
    _RESNET.check(model)
    require_one_of(model, "init", INITS)
    require_one_of(model, "activation", ACTIVATIONS)
    require(0 < model.tailored_eta < 1, model, "tailored_eta", "above 0 and below 1")
    if model.init != "he":
        require(model.block == "basic", model, "block", f"basic with model.init={model.init!r}")
        rule = f"non-decreasing with model.init={model.init!r}"
        require(list(model.widths) == sorted(model.widths), model, "widths", rule)
    if model.activation != "relu":
        rule = "relu unless model.norm is none"
        require(model.norm == "none", model, "activation", rule)


def _build(model: ConfigDict) -> Callable[..., BaseModel]:
    if model.init == "he" and model.activation == "relu":
        return _RESNET.build(model)
    return functools.partial(
        PlainNet,
        kernel_init=model.init,
        activation=model.activation,
        tailored_eta=model.tailored_eta,
        **resnet_families.resnet_attributes(model),
    )


FAMILY = dataclasses.replace(
    _RESNET,
    fields=(*_RESNET.fields, "init", "activation", "tailored_eta"),
    check=_check,
    build=_build,
)
