"""Residual units of StarGAN (Choi et al. 2018, arXiv 1711.09020, table 4), as a classifier.

Two convolutions halve the size. Six residual units with instance norm and without ReLU after the
addition follow. Average pooling and a classification head replace the paper's decoder.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32
from ml_collections import ConfigDict

from flaxres.models.family import Family, NameForm, first_activations, require, require_widths
from flaxres.models.layers import BaseModel, Layers, check_size, classify
from flaxres.models.norms import norm_relu, norm_relu_conv


class ResidualUnit(nn.Module):
    """x + norm(conv(ReLU(norm(conv(x))))), with 3x3 convolutions and no ReLU after the addition.

    Attributes:
      layers: constructors of convolutions and norms.
    """

    layers: Layers

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Applies the unit."""
        conv, norm = self.layers
        filters = x.shape[-1]
        y = conv(filters, 3, name="conv1")(x)
        conv2 = functools.partial(conv, filters, 3, name="conv2")
        y = norm_relu_conv(norm(name="norm1"), conv2, y)
        return x + norm(name="norm2")(y)


class StarGan(BaseModel, kw_only=True):
    """A 7x7 and two strided 4x4 convolutions with norm and ReLU, residual units, pooling, head.

    Attributes:
      depth: number of residual units.
      widths: number of filters of each of the three convolutions.

    Raises (when called):
      ValueError: the norm is unknown.
      ConfigError: the images are smaller than the product of all strides.
    """

    depth: int
    widths: tuple[int, ...] = (64, 128, 256)

    @nn.compact
    def __call__(
        self, images: Float[Array | np.ndarray, "batch height width channels"], train: bool
    ) -> Float32[Array, "batch classes"]:
        """Returns the logits of a batch of normalized images.

        Args:
          images: a batch of any floating-point dtype.
          train: if True, norms use statistics of the batch and update the running statistics.
        """
        check_size(images, 2 ** (len(self.widths) - 1))
        layers = self.layers(train)
        x = jnp.asarray(images, self.dtype)
        for number, filters in enumerate(self.widths, start=1):
            size, stride, pad = (7, 1, 3) if number == 1 else (4, 2, 1)
            conv = layers.conv(
                filters, size, stride, padding=((pad, pad),) * 2, name=f"conv{number}"
            )
            norm = f"norm{number}"
            x = norm_relu(self.layers(train, norm).norm(name=norm), conv(x))
        for number in range(1, self.depth + 1):
            unit = f"unit{number}"
            x = ResidualUnit(self.layers(train, unit), name=unit)(x)
        return classify(x, self.num_classes)


def _check(model: ConfigDict) -> None:
    is_positive = type(model.depth) is int and model.depth >= 1
    require(is_positive, model, "depth", "a positive number of residual units")
    require_widths(model, "widths", 3)


def _build(model: ConfigDict) -> Callable[..., BaseModel]:
    widths = tuple(model.widths)
    return lambda **common: StarGan(depth=model.depth, widths=widths, **common)


def _min_params(model: ConfigDict, image_size: int) -> int:
    """Counts the weights of the strided convolutions and of the residual units."""
    first, second, third = model.widths
    return 16 * (first * second + second * third) + 18 * model.depth * third**2


def _read(groups: Mapping[str, str | Any], stem: str) -> dict[str, Any]:
    depth = int(groups["depth"])
    return {"name": "stargan", "depth": depth, "widths": (64, 128, 256), "norm": "instance"}


FAMILY = Family(
    ("depth", "widths"),
    _check,
    _build,
    (NameForm("stargan", r"stargan-(?P<depth>\d+)", _read, ("stargan-6",)),),
    min_params=_min_params,
    first_activations=first_activations,
)
