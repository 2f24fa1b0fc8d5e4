"""ConvNeXt (Liu et al. 2022, arXiv 2201.03545): convolutional networks with Transformers' design.

A block is a residual branch of a depthwise 7x7 convolution, a norm, and two 1x1 convolutions with
GELU between them, of which the first has four times as many filters (section 2 and figure 4).
There is one norm and one activation in a block, and nothing after the addition. A norm and a 2x2
convolution with stride 2 precede each stage except the first.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from flaxres.models.layers import HEAD, BaseModel, Layers, check_size, make_conv
from flaxres.models.multipliers import BranchScale

EXPANSION = 4  # filters of a block's first 1x1 convolution for each of its channels (section 2.4)
KERNEL_SIZE = 7  # of the depthwise convolutions (section 2.5)
PATCH = {"cifar": 1, "imagenet": 4}  # stride of the stem, by the name of the stem
STAGE_STRIDE = 2
initializer = nn.initializers.normal(0.02)  # of all kernels (appendix A.1)


class ConvNextBlock(nn.Module):
    """x + branch_scale * conv(GELU(conv(norm(depthwise conv(x))))).

    Attributes:
      layers: constructors of convolutions with bias and of norms.
      branch_scale: factor of the residual branch; the paper's has one for each channel.
    """

    layers: Layers
    branch_scale: BranchScale

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Applies the block."""
        conv, norm = self.layers
        channels = x.shape[-1]
        y = conv(channels, KERNEL_SIZE, groups=channels, name="conv1", kernel_init=initializer)(x)
        y = norm(name="norm")(y)
        y = conv(EXPANSION * channels, 1, name="conv2", kernel_init=initializer)(y)
        y = nn.gelu(y, approximate=False)
        y = conv(channels, 1, name="conv3", kernel_init=initializer)(y)
        return x + self.branch_scale(y)


class ConvNext(BaseModel, kw_only=True):
    """A strided convolution, stages of blocks, pooling, a norm and the classification head.

    Attributes:
      stages: number of blocks in each stage; all stages except the first halve the size.
      widths: number of channels in each stage.
      stem: 'imagenet' for a 4x4 convolution with stride 4 (section 2.3), or 'cifar' for a 3x3
        convolution with stride 1; a norm follows.
      branch_scale: factor of each residual branch.

    Raises (when called):
      ConfigError: the images are smaller than the product of all strides.
    """

    stages: tuple[int, ...]
    widths: tuple[int, ...]
    stem: str = "imagenet"
    branch_scale: BranchScale = BranchScale("channel", 1e-6)

    @nn.compact
    def __call__(
        self, images: Float[Array | np.ndarray, "batch height width channels"], train: bool
    ) -> Float32[Array, "batch classes"]:
        """Returns the logits of a batch of normalized images.

        Args:
          images: a batch of any floating-point dtype.
          train: if True, norms use statistics of the batch and update the running statistics.
        """
        stem_stride = PATCH[self.stem]
        check_size(images, stem_stride * STAGE_STRIDE ** (len(self.stages) - 1))
        x = jnp.asarray(images, self.dtype)
        for stage, (count, width) in enumerate(zip(self.stages, self.widths, strict=True), 1):
            if stage == 1:
                x = self._downsample(x, width, stem_stride, "conv", train)
                x = self._layers(train, "norm").norm(name="norm")(x)
            else:
                norm = f"stage{stage}_norm"
                x = self._layers(train, norm).norm(name=norm)(x)
                x = self._downsample(x, width, STAGE_STRIDE, f"stage{stage}_conv", train)
            for number in range(1, count + 1):
                name = f"stage{stage}_block{number}"
                x = ConvNextBlock(self._layers(train, name), self.branch_scale, name=name)(x)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2), keepdims=True)
        x = self._layers(train, "last_norm").norm(name="last_norm")(x).astype(jnp.float32)
        return nn.Dense(self.num_classes, kernel_init=initializer, name=HEAD)(x[:, 0, 0])

    def _layers(self, train: bool, name: str) -> Layers:
        """Returns the constructors of `BaseModel.layers`, with a bias in every convolution."""
        return self.layers(train, name)._replace(conv=make_conv(use_bias=True, dtype=self.dtype))

    def _downsample(
        self,
        x: Float[Array, "batch height width channels"],
        filters: int,
        stride: int,
        name: str,
        train: bool,
    ) -> Float[Array, "batch out_height out_width filters"]:
        """Applies a convolution of patches that do not overlap, or a 3x3 one with stride 1."""
        conv = self._layers(train, name).conv
        padding = {} if stride == 1 else {"padding": ((0, 0), (0, 0))}
        size = 3 if stride == 1 else stride
        return conv(filters, size, stride, name=name, kernel_init=initializer, **padding)(x)
