"""LeNet-5: LeCun et al. 1998, "Gradient-based learning applied to document recognition", figure 2.

With ReLU, full connections between the feature maps and a softmax, as it is built today.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxres.models.layers import BaseModel, classify, he_normal

PIXELS = 32  # the paper's images; smaller ones are padded with zeros, as MNIST's were


class LeNet(BaseModel, kw_only=True):
    """Two 5x5 convolutions, each with a mean over 2x2 pixels after it, and dense layers.

    Attributes:
      widths: filters of the convolutions.
      hidden: outputs of the dense layers before the last.
    """

    widths: tuple[int, ...] = (6, 16)
    hidden: tuple[int, ...] = (120, 84)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Logits; arguments as those of `flaxres.models.resnet.ResNet`."""
        layers = self.layers(train)
        missing = [max(0, PIXELS - length) for length in x.shape[1:3]]
        around = [(length // 2, length - length // 2) for length in missing]
        x = jnp.pad(jnp.asarray(x, self.dtype), ((0, 0), *around, (0, 0)))
        for number, filters in enumerate(self.widths, start=1):
            name = f"conv{number}"
            x = layers.conv(filters, 5, padding="VALID", use_bias=True, name=name)(x)
            x = nn.avg_pool(nn.relu(x), (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)  # no `len`: an export's batch has no number
        for number, outputs in enumerate(self.hidden, start=1):
            dense = nn.Dense(
                outputs, kernel_init=he_normal, dtype=self.dtype, name=f"hidden{number}"
            )
            x = nn.relu(dense(x))
        return classify(x, self.num_classes)
