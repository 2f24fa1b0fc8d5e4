"""Variants of the stem for ImageNet: three convolutions instead of one, and other poolings."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
from jaxtyping import Array, Float

from flaxres.models.layers import Layers
from flaxres.models.norms import norm_relu, norm_relu_conv
from flaxres.models.pooling import ANTI_ALIAS, average_pool

STEM_POOLS = ("max", "conv")


@dataclasses.dataclass(frozen=True)
class ImageNetStem:
    """Options of the stem for ImageNet.

    Attributes:
      is_deep: if True, three 3x3 convolutions, of which the first has stride 2, replace the 7x7
        convolution. The first two have half of the filters. He et al. 2019 (arXiv 1812.01187),
        section 4.1, ResNet-C.
      pool: 'max' for a 3x3 max pooling with stride 2, or 'conv' for a 3x3 convolution with stride
        2, norm and ReLU: Bello et al. 2021 (arXiv 2103.07579), section 5.
      anti_alias: subsampling of the pooling, one of `ANTI_ALIAS`. With 'average', a 2x2 average
        pooling replaces the max pooling; with 'blur', a max pooling without stride comes before the
        blur.
    """

    is_deep: bool = False
    pool: str = "max"
    anti_alias: str = "none"

    @property
    def first_norm(self) -> str:
        """Name of the first norm."""
        return "stem_norm1" if self.is_deep else "norm"

    def apply(
        self, x: Float[Array, "batch height width channels"], filters: int, layers: Layers
    ) -> Float[Array, "batch out_height out_width filters"]:
        """Returns feature maps of a quarter of the size. Call it in a model's compact method.

        Args:
          x: a batch of images.
          filters: number of filters of the last convolution.
          layers: constructors of the model's layers.
        """
        conv, norm = layers
        subsample = ANTI_ALIAS[self.anti_alias]
        if not self.is_deep:
            y, last_norm = conv(filters, 7, 2, name="conv")(x), norm(name=self.first_norm)
        else:
            y = conv(filters // 2, 3, 2, name="stem_conv1")(x)
            for number, width in ((2, filters // 2), (3, filters)):
                next_conv = functools.partial(conv, width, 3, name=f"stem_conv{number}")
                y = norm_relu_conv(norm(name=f"stem_norm{number - 1}"), next_conv, y)
            last_norm = norm(name="stem_norm3")
        if self.pool == "conv":
            stride = 2 if subsample is None else 1
            pool_conv = functools.partial(conv, filters, 3, stride, name="stem_pool_conv")
            y = norm_relu_conv(last_norm, pool_conv, y)
            y = y if subsample is None else subsample(y, 2)
            return norm_relu(norm(name="stem_pool_norm"), y)
        y = norm_relu(last_norm, y)
        if self.anti_alias == "average":
            return average_pool(y, 2)
        stride = 2 if subsample is None else 1
        y = nn.max_pool(y, window_shape=(3, 3), strides=(stride, stride), padding=((1, 1), (1, 1)))
        return y if subsample is None else subsample(y, 2)
