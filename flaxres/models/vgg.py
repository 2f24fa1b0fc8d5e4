"""VGG nets with batch norm, with and without shortcuts around their last two convolutions.

Simonyan and Zisserman 2014 (arXiv 1409.1556), table 1. With the shortcuts the net can fall back to
the shallower one without those two layers.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxres.models.layers import BaseModel, check_size, classify, he_normal
from flaxres.models.norms import norm_relu

# Convolutions in each of five stages, by depth: table 1, columns A, B, D and E.
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
STRIDE = 32  # of five maxima, each over 2x2 pixels


def stages_of_depth(depth: int) -> tuple[int, ...]:
    """Convolutions in each stage.

    Raises:
      ValueError: there is no such net.
    """
    if depth not in STAGES:
        raise ValueError(f"depth must be {', '.join(map(str, STAGES))}, got {depth}")
    return STAGES[depth]


class Vgg(BaseModel, kw_only=True):
    """Stages of 3x3 convolutions with norm and ReLU, each followed by a 2x2 maximum; dense layers.

    Attributes:
      stages: convolutions in each.
      widths: filters of the stages.
      hidden: outputs of the dense layers before the last, each followed by ReLU and dropout; they
        take all pixels of the last stage. Without them the last dense layer takes the mean.
      dropout_rate: of the hidden layers; in training it takes the random numbers 'dropout'.
      skip: whether the input of each of the last two convolutions is added to its norm.

    Raises (when called):
      ValueError: an unknown norm.
      ConfigError: images that are smaller than 32 x 32.
    """

    stages: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: tuple[int, ...] = ()
    dropout_rate: float = 0.0
    skip: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Logits; arguments as those of `flaxres.models.resnet.ResNet`."""
        check_size(x, STRIDE)
        layers = self.layers(train)
        x = jnp.asarray(x, self.dtype)
        left = sum(self.stages)
        for stage, (count, filters) in enumerate(zip(self.stages, self.widths, strict=True), 1):
            for number in range(1, count + 1):
                conv, norm = (f"stage{stage}_{kind}{number}" for kind in ("conv", "norm"))
                y = layers.conv(filters, 3, name=conv)(x)
                around = x if self.skip and left <= 2 and x.shape == y.shape else None
                x = norm_relu(self.layers(train, norm).norm(name=norm), y, add=around)
                left -= 1
            x = nn.max_pool(x, (2, 2), (2, 2))
        if not self.hidden:
            return classify(x, self.num_classes)
        x = x.reshape(x.shape[0], -1)  # no `len`: an export's batch has no number
        for number, outputs in enumerate(self.hidden, start=1):
            x = nn.Dense(outputs, kernel_init=he_normal, dtype=self.dtype, name=f"hidden{number}")(
                x
            )
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(nn.relu(x))
        return classify(x, self.num_classes)
