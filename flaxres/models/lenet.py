"""LeNet-5: LeCun et al. 1998, "Gradient-based learning applied to document recognition", figure 2.

As is usual today, it has ReLU, a softmax, and full connections between the feature maps.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

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
