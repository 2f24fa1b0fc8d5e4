"""Dirac networks: plain networks whose kernels are a scaled identity plus normalized weights.

Zagoruyko and Komodakis 2017 (arXiv 1706.00388), section 2. The kernel of a convolution is

    diag(a) I + diag(b) W / |W|,

where I is the kernel of the identity, |W| the Euclidean norm of each filter, and the vectors a and
b are learned; the authors apply no weight decay to them (`weight_decay_on='kernels'`). The layers,
strides and widths are those of the plain network of the same depth. The activation is ReLU, as in
the second version of the paper; the networks of the first version had NCReLU, which doubles the
channels. Where a convolution adds channels, the identity covers the first ones, as shortcut option
A does.

`fold` computes the kernels once: the result is a plain network with equal logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from flaxres.cpu.convolutions import NHWC
from flaxres.cpu.kernels import conv_general_dilated, promote_images
from flaxres.models import resnet_families
from flaxres.models.family import (
    Family,
    NameForm,
    first_activations,
    require,
    require_widths,
)
from flaxres.models.initializers import dirac_kernel
from flaxres.models.layers import BaseModel, Layers, he_normal
from flaxres.models.resnet import ResNet, default_widths, stages_of_depth

IDENTITY_SCALE, KERNEL_SCALE = "identity_scale", "kernel_scale"  # parameters a and b
MIN_NORM = 1e-12  # of a filter, as in torch.nn.functional.normalize


def effective_kernel(
    kernel: Float[Array | np.ndarray, "size size channels filters"],
    identity_scale: Float[Array | np.ndarray, " filters"],
    kernel_scale: Float[Array | np.ndarray, " filters"],
) -> Float[Array, "size size channels filters"]:
    """Returns diag(a) I + diag(b) W / |W|.

    Args:
      kernel: the weights W.
      identity_scale: the vector a.
      kernel_scale: the vector b.
    """
    norms = jnp.sqrt(jnp.sum(jnp.square(kernel), axis=(0, 1, 2)))
    normalized = kernel / jnp.maximum(norms, MIN_NORM)
    return jnp.add(identity_scale * dirac_kernel(kernel.shape), kernel_scale * normalized)


class DiracConv(nn.Module, kw_only=True):
    """3x3 convolution whose kernel is a scaled identity plus normalized weights.

    Attributes:
      filters: number of filters.
      stride: stride of the convolution.
      use_bias: if True, a bias is added.
      identity_scale: initial value of a, the scale of the identity.
      kernel_scale: initial value of b, the scale of the normalized weights.
      dtype: dtype of the computation.
      conv_general_dilated: the convolution, as in `nn.Conv`.
    """

    filters: int
    stride: int = 1
    use_bias: bool = False
    identity_scale: float = 1.0
    kernel_scale: float = 0.1
    dtype: DTypeLike = jnp.float32
    conv_general_dilated: Any = conv_general_dilated

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width filters"]:
        """Returns (batch, ceil(height / stride), ceil(width / stride), filters)."""
        weights = self.param("kernel", he_normal, (3, 3, x.shape[-1], self.filters))
        scales = [
            self.param(name, nn.initializers.constant(value), (self.filters,))
            for name, value in (
                (IDENTITY_SCALE, self.identity_scale),
                (KERNEL_SCALE, self.kernel_scale),
            )
        ]
        zeros = nn.initializers.zeros
        bias = self.param("bias", zeros, (self.filters,)) if self.use_bias else None
        kernel = effective_kernel(weights, *scales)
        images, kernel_cast, bias_cast = promote_images(x, kernel, bias, dtype=self.dtype)
        y = self.conv_general_dilated(
            images,
            kernel_cast,
            (self.stride,) * 2,
            ((1, 1),) * 2,
            lhs_dilation=(1, 1),
            rhs_dilation=(1, 1),
            dimension_numbers=NHWC,
            feature_group_count=1,
            precision=None,
        )
        return y if bias_cast is None else y + bias_cast


class DiracNet(ResNet, kw_only=True):
    """Plain network with Dirac convolutions in all blocks.

    Attributes:
      identity_scale: initial value of a, the scale of the identity.
      kernel_scale: initial value of b, the scale of the normalized weights.
    """

    identity_scale: float = 1.0
    kernel_scale: float = 0.1

    def layers(self, train: bool, name: str = "") -> Layers:
        """Returns constructors of convolutions and norms; the stem's convolution is ordinary."""
        conv, norm = super().layers(train, name)
        if not name.startswith("stage"):
            return Layers(conv, norm)

        def dirac_conv(filters: int, size: int, stride: int = 1, **options: Any) -> nn.Module:
            options.pop("kernel_init", None)  # the weights are normalized
            return DiracConv(
                filters=filters,
                stride=stride,
                use_bias=self.norm == "none",
                identity_scale=self.identity_scale,
                kernel_scale=self.kernel_scale,
                dtype=self.dtype,
                **options,
            )

        return Layers(dirac_conv, norm)


def fold(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Computes the kernels of a Dirac network.

    Args:
      variables: 'params' and, with batch norm, 'batch_stats' of a `DiracNet`.

    Returns:
      Variables of the plain network of the same depth, widths and norm, with equal logits.
    """

    def fold_layers(params: Mapping[str, Any]) -> dict[str, Any]:
        if IDENTITY_SCALE in params:
            scales = (params[IDENTITY_SCALE], params[KERNEL_SCALE])
            bias = {"bias": params["bias"]} if "bias" in params else {}
            return {"kernel": effective_kernel(params["kernel"], *scales), **bias}
        return {
            name: fold_layers(value) if isinstance(value, Mapping) else value
            for name, value in params.items()
        }

    return {**variables, "params": fold_layers(variables["params"])}


def _check(model: ConfigDict) -> None:
    require_widths(model, "widths", len(stages_of_depth(model.depth, model.block, model.stem)))
    for field in ("remat", "scan"):
        require(type(model[field]) is bool, model, field, "true or false")
    for field in (IDENTITY_SCALE, KERNEL_SCALE):
        require(model[field] >= 0, model, field, "at least 0")


def _build(model: ConfigDict) -> Callable[..., BaseModel]:
    scales = {field: model[field] for field in (IDENTITY_SCALE, KERNEL_SCALE)}
    return functools.partial(DiracNet, **resnet_families.resnet_attributes(model), **scales)


def _read(groups: Mapping[str, str | Any], stem: str) -> dict[str, Any]:
    depth = int(groups["depth"])
    return {"name": "dirac", "depth": depth, "widths": default_widths(depth, "basic", stem)}


FAMILY = Family(
    ("depth", "widths", "stem", "remat", "scan", IDENTITY_SCALE, KERNEL_SCALE),
    _check,
    _build,
    (
        NameForm(
            *("dirac", r"dirac-(?P<depth>\d+)", _read, ("dirac-56", "dirac-34")),
            other_starts=("diracnet",),
        ),
    ),
    min_params=resnet_families.FAMILIES["plain"].min_params,
    first_activations=first_activations,
)
