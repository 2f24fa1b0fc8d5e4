"""What all nets are made of: convolutions, the base of a net, its stem and its head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxres.cpu.kernels import conv_general_dilated
from flaxres.errors import ConfigError
from flaxres.models.norms import make_norm, norm_relu

# He-2015 (arXiv 1502.01852), equation 10: zero-mean Gaussian of std sqrt(2 / fan_in).
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

HEAD = "dense"  # the name of every net's last layer
BACKBONE = "backbone"  # all layers but that one

STEM_STRIDES = {"cifar": 1, "imagenet": 4}  # of `apply_stem`


class Layers(NamedTuple):
    """Constructors of a net's layers; both take the layer's `name`.

    Attributes:
      conv: see `make_conv`.
      norm: see `flaxres.models.norms.make_norm`.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]


def make_conv(*, use_bias: bool = False, dtype: DTypeLike = jnp.float32) -> Callable[..., nn.Conv]:
    """Returns `conv(filters, size, stride=1, groups=1, **options)`, a constructor of convolutions.

    The kernel is `size` x `size`, with size // 2 zeros around the image: 'SAME' would pad (0, 1) at
    stride 2 and shift the image by half a pixel. `options` are those of `nn.Conv`.
    """

    def conv(filters: int, size: int, stride: int = 1, groups: int = 1, **options) -> nn.Conv:
        return nn.Conv(
            filters,
            (size, size),
            stride,
            **{
                "padding": ((size // 2, size // 2),) * 2,
                "feature_group_count": groups,
                "use_bias": use_bias,
                "kernel_init": he_normal,
                "dtype": dtype,
                "conv_general_dilated": conv_general_dilated,
            }
            | options,
        )

    return conv


class BaseModel(nn.Module, kw_only=True):
    """What every net has.

    Attributes:
      num_classes: outputs.
      norm: see `flaxres.models.norms`.
      norm_momentum: weight of the old running statistics.
      norm_epsilon: added to the variance.
      dtype: of the computation; parameters, statistics and logits are float32.
      axis: see `flaxres.models.norms`.
      frozen: names of layers whose norms use the running statistics in training too, and leave them
        as they are; see `is_frozen`.
    """

    num_classes: int
    norm: str = "batch"
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    axis: str | None = None
    frozen: tuple[str, ...] = ()

    def layers(self, train: bool, name: str = "") -> Layers:
        """Constructors of convolutions and norms; without a norm, convolutions have a bias.

        Args:
          train: see the net's call.
          name: of the block that takes them, or of the norm itself, for one that may be frozen.
        """
        norm = make_norm(
            self.norm,
            train=train and not is_frozen(name, self.frozen),
            dtype=self.dtype,
            momentum=self.norm_momentum,
            epsilon=self.norm_epsilon,
            axis=self.axis,
        )
        return Layers(make_conv(use_bias=self.norm == "none", dtype=self.dtype), norm)


def is_frozen(path: str, frozen: Sequence[str]) -> bool:
    """Whether `frozen` has a layer: by its own name, its stage's, or as part of the body.

    Args:
      path: of the layer from the net on, e.g. 'conv' or 'stage1_block2/norm1'.
      frozen: names such as 'conv', 'stage1' (with all that is called stage1_...), 'stage1_block2',
        and 'backbone' for all layers but the last dense one.
    """
    layer = path.partition("/")[0]
    return any(
        layer == name
        or layer.startswith(f"{name}_")
        or (name == BACKBONE and layer not in ("", HEAD))
        for name in frozen
    )


def check_size(images: jax.Array, stride: int) -> None:
    """Checks that images (batch, height, width, channels) leave a pixel after all strides.

    Raises:
      ConfigError: they have fewer pixels than `stride`, the product of the strides.
    """
    height, width = images.shape[1:3]
    if min(height, width) < stride:
        raise ConfigError(
            f"this net needs images of at least {stride} x {stride} pixels, got {height} x "
            f"{width}; scale them with --config.dataset.image_size={stride}, or choose another net"
        )


def apply_stem(kind: str, x: jax.Array, filters: int, layers: Layers) -> jax.Array:
    """The layers before the first stage; to be called inside a net's compact method.

    Args:
      kind: 'cifar', a 3x3 convolution at full size; 'imagenet', a 7x7 convolution and a 3x3
        maximum, each with stride 2.
      x: (batch, height, width, channels).
      filters: of the convolution.
      layers: the net's.

    Returns:
      (batch, height, width, filters), or a quarter of the size.
    """
    if kind == "cifar":
        return norm_relu(layers.norm(name="norm"), layers.conv(filters, 3, name="conv")(x))
    x = norm_relu(layers.norm(name="norm"), layers.conv(filters, 7, 2, name="conv")(x))
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


def classify(x: jax.Array, num_classes: int) -> jax.Array:
    """Mean over space, then the dense layer 'dense'; to be called in a compact method.

    Args:
      x: (batch, height, width, channels), or (batch, channels) to leave out the mean.
      num_classes: outputs.

    Returns:
      float32 (batch, num_classes).
    """
    x = x.astype(jnp.float32)
    x = jnp.mean(x, axis=(1, 2)) if x.ndim == 4 else x
    return nn.Dense(num_classes, kernel_init=he_normal, name=HEAD)(x)
