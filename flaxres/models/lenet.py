"""LeNet-5: LeCun et al. 1998, "Gradient-based learning applied to document recognition", figure 2.

As is usual today, it has ReLU, a softmax, and full connections between the feature maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32
from ml_collections import ConfigDict

from flaxres.models.family import (
    Family,
    NameForm,
    dense_params,
    require,
    require_widths,
)
from flaxres.models.layers import BaseModel, classify, he_normal

IMAGE_SIZE = 32  # pixels of the paper's images; smaller ones are zero-padded, as MNIST was


class LeNet(BaseModel, kw_only=True):
    """Two 5x5 convolutions, each followed by 2x2 average pooling, and dense layers.

    Attributes:
      widths: number of filters of each convolution.
      hidden: number of outputs of each dense layer before the classification head.
    """

    widths: tuple[int, ...] = (6, 16)
    hidden: tuple[int, ...] = (120, 84)

    @nn.compact
    def __call__(
        self, images: Float[Array | np.ndarray, "batch height width channels"], train: bool
    ) -> Float32[Array, "batch classes"]:
        """Returns the logits of a batch of normalized images.

        Args:
          images: a batch of any floating-point dtype.
          train: has no effect, as the model has no norms and no dropout.
        """
        layers = self.layers(train)
        missing = [max(0, IMAGE_SIZE - length) for length in images.shape[1:3]]
        padding = [(length // 2, length - length // 2) for length in missing]
        x = jnp.pad(jnp.asarray(images, self.dtype), ((0, 0), *padding, (0, 0)))
        for number, filters in enumerate(self.widths, start=1):
            name = f"conv{number}"
            x = layers.conv(filters, 5, padding="VALID", use_bias=True, name=name)(x)
            x = nn.avg_pool(nn.relu(x), window_shape=(2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)  # not len(x): the batch size of an export is symbolic
        for number, outputs in enumerate(self.hidden, start=1):
            dense = nn.Dense(
                outputs, kernel_init=he_normal, dtype=self.dtype, name=f"hidden{number}"
            )
            x = nn.relu(dense(x))
        return classify(x, self.num_classes)


def _check(model: ConfigDict) -> None:
    require(model.depth == 5, model, "depth", "5")
    require_widths(model, "widths", 2)
    require_widths(model, "hidden")
    require(model.norm == "none", model, "norm", "none for LeNet")


def _build(model: ConfigDict) -> Callable[..., BaseModel]:
    widths, hidden = tuple(model.widths), tuple(model.hidden)
    return lambda **common: LeNet(widths=widths, hidden=hidden, **common)


def _min_params(model: ConfigDict, image_size: int) -> int:
    """Counts the weights of the second convolution and of the dense layers before the head."""
    size = (((max(image_size, IMAGE_SIZE) - 4) // 2) - 4) // 2  # two 5x5 convolutions and poolings
    first, second = model.widths
    return 25 * first * second + dense_params(size**2 * second, model.hidden)


def _read(groups: Mapping[str, str | Any], stem: str) -> dict[str, Any]:
    return {"name": "lenet", "depth": 5, "widths": (6, 16), "hidden": (120, 84), "norm": "none"}


FAMILY = Family(
    ("depth", "widths", "hidden"),
    _check,
    _build,
    (NameForm("lenet", r"lenet-5", _read, ("lenet-5",)),),
    min_params=_min_params,
    first_activations=lambda model, image_size: model.widths[0] * max(28, image_size - 4) ** 2,
)
