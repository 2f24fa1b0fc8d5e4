"""Parts that all models share: convolutions, the base class, the stem and the head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Key, Shaped

from flaxres.cpu.kernels import (
    conv_general_dilated,
    convolve_and_pass,
    promote_images,
    supports_convolution,
)
from flaxres.errors import ConfigError
from flaxres.models.norms import make_norm, norm_relu

# He et al. 2015 (arXiv 1502.01852), equation 10: zero-mean Gaussian, std sqrt(2 / fan_in).
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

# Stream of random numbers whose key is the same for all shards of a batch, over devices and
# micro-batches. The key of 'dropout' is not.
SHARED_DROPOUT = "shared_dropout"
# Collection with one variable, the index in the whole batch of a shard's first image; 0 without it.
BATCH_POSITION, FIRST_IMAGE = "batch_position", "first_image"
HEAD = "dense"  # name of the classification head, the last layer of every model
BACKBONE = "backbone"  # stands for all layers except the classification head

STEM_STRIDES = {"cifar": 1, "imagenet": 4}  # total stride of each stem of `apply_stem`


class Layers(NamedTuple):
    """Constructors of a model's layers. Both accept the layer's `name`.

    Attributes:
      conv: constructor of convolutions, from `make_conv`.
      norm: constructor of norms, from `flaxres.models.norms.make_norm`.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]


def make_conv(*, use_bias: bool = False, dtype: DTypeLike = jnp.float32) -> Callable[..., nn.Conv]:
    """Returns `conv(filters, size, stride=1, groups=1, **options)`, a constructor of convolutions.

    The kernel is `size` x `size`, and the image gets size // 2 zeros on each side: padding 'SAME'
    would pad (0, 1) at stride 2 and shift the image by half a pixel. `options` are arguments of
    `nn.Conv`.
    """

    def conv(filters: int, size: int, stride: int = 1, groups: int = 1, **options: Any) -> nn.Conv:
        defaults: dict[str, Any] = {
            "padding": ((size // 2, size // 2),) * 2,
            "feature_group_count": groups,
            "use_bias": use_bias,
            "kernel_init": he_normal,
            "dtype": dtype,
            "promote_dtype": promote_images,
            "conv_general_dilated": conv_general_dilated,
        }
        return nn.Conv(filters, (size, size), stride, **(defaults | options))

    return conv


def conv_and_pass(
    conv: Callable[..., nn.Module], x: Float[Array | np.ndarray, "batch height width channels"]
) -> tuple[
    Float[Array, "batch out_height out_width filters"],
    Float[Array | np.ndarray, "batch height width channels"],
]:
    """Returns conv(x), and `x` for a shortcut.

    On a CPU the gradient kernel of the convolution adds the shortcut's gradient.

    Args:
      conv: constructor of the convolution, called without positional arguments.
      x: feature maps.
    """
    passed = [x]

    def convolve(
        lhs: Float[Array | np.ndarray, ...],
        rhs: Float[Array | np.ndarray, ...],
        strides: Sequence[int],
        padding: Sequence[tuple[int, int]] | str,
        **options: Any,
    ) -> Float[Array, ...]:
        if lhs.dtype != x.dtype or not supports_convolution(lhs, rhs, strides, padding, options):
            return conv_general_dilated(lhs, rhs, strides, padding, **options)
        kernel = rhs.astype(jnp.float32)
        y, passed[0] = convolve_and_pass(lhs, kernel, strides[0], int(padding[0][0]))
        return y

    return conv(conv_general_dilated=convolve)(x), passed[0]


class BaseModel(nn.Module, kw_only=True):
    """Base class of all models.

    Attributes:
      num_classes: number of outputs.
      norm: name of the norm, one of `flaxres.models.norms.NORMS`.
      norm_momentum: weight of the previous running statistics in an update.
      norm_epsilon: constant that norms add to the variance.
      dtype: dtype of the computation. Parameters, running statistics and logits are float32.
      axis: name of the device axis that batch norm averages statistics over, or None.
      frozen: names of layers whose norms also use running statistics in training and do not
        update them, as `is_frozen` reads them.
    """

    num_classes: int
    norm: str = "batch"
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    axis: str | None = None
    frozen: tuple[str, ...] = ()

    def shared_key(self) -> Key[Array, ""]:
        """Returns a random key that is the same on all devices and for all micro-batches.

        It comes from the stream `SHARED_DROPOUT`, or from 'dropout' if the caller gives no other.
        """
        return self.make_rng(SHARED_DROPOUT if self.has_rng(SHARED_DROPOUT) else "dropout")

    def image_keys(self, num_images: int) -> Key[Array, " images"]:
        """Returns a random key for each image, a function of its index in the whole batch.

        Args:
          num_images: number of images of this call.
        """
        first = self.get_variable(BATCH_POSITION, FIRST_IMAGE, 0)
        key, numbers = self.shared_key(), first + jnp.arange(num_images)
        return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)

    def layers(self, train: bool, name: str = "") -> Layers:
        """Returns constructors of convolutions and norms.

        Convolutions have a bias only if the model has no norm.

        Args:
          train: the argument of the model's call.
          name: name of the block, or of the norm itself, that may be in `frozen`.
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
    """Returns True if `frozen` contains a layer, its block, its stage or the whole backbone.

    Args:
      path: path of the layer in the parameter tree, such as 'conv' or 'stage1_block2/norm1'.
      frozen: names such as 'conv', 'stage1' (every layer named stage1_...), 'stage1_block2', and
        'backbone' for all layers except the classification head.
    """
    layer = path.partition("/")[0]
    return any(
        layer == name
        or layer.startswith(f"{name}_")
        or (name == BACKBONE and layer not in ("", HEAD))
        for name in frozen
    )


def three_equal_stages(depth: int, period: int, offset: int) -> tuple[int, int, int]:
    """Returns the number of blocks in each of the three stages of a CIFAR model.

    Args:
      depth: number of weighted layers.
      period: layers of one block in each of the three stages.
      offset: layers outside the stages.

    Raises:
      ValueError: there is no model of this depth.
    """
    n, rest = divmod(depth - offset, period)
    if n < 1 or rest:
        examples = ", ".join(str(period * n + offset) for n in range(1, 5))
        raise ValueError(f"depth must be {period}n+{offset} ({examples}, ...), got {depth}")
    return (n, n, n)


def check_size(
    images: Shaped[Array | np.ndarray, "batch height width channels"], stride: int
) -> None:
    """Checks that at least one pixel is left after all strides.

    Args:
      images: a batch of images; only the shape is read.
      stride: product of the strides of all layers.

    Raises:
      ConfigError: the height or width is smaller than `stride`.
    """
    height, width = images.shape[1:3]
    if min(height, width) < stride:
        raise ConfigError(
            f"this model needs images of at least {stride} x {stride} pixels, got {height} x "
            f"{width}; scale them with --config.dataset.image_size={stride}, or choose another "
            "model"
        )


def apply_stem(
    stem: str,
    x: Float[Array, "batch height width channels"],
    filters: int,
    layers: Layers,
) -> Float[Array, "batch out_height out_width filters"]:
    """Applies the layers before the first stage. Call it in a model's compact method.

    Args:
      stem: 'cifar' for a 3x3 convolution at full size, or 'imagenet' for a 7x7 convolution and a
        3x3 max pooling, each with stride 2.
      x: a batch of images.
      filters: number of filters of the convolution.
      layers: constructors of the model's layers.

    Returns:
      Feature maps of the size of `x` with 'cifar', and of a quarter of it with 'imagenet'.
    """
    if stem == "cifar":
        return norm_relu(layers.norm(name="norm"), layers.conv(filters, 3, name="conv")(x))
    x = norm_relu(layers.norm(name="norm"), layers.conv(filters, 7, 2, name="conv")(x))
    return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def classify(
    x: Float[Array, "batch *size channels"], num_classes: int
) -> Float32[Array, "batch classes"]:
    """Applies global average pooling and the classification head. Call it in a compact method.

    Args:
      x: (batch, height, width, channels), or (batch, channels) if already pooled.
      num_classes: number of outputs.
    """
    x = x.astype(jnp.float32)
    x = jnp.mean(x, axis=(1, 2)) if x.ndim == 4 else x
    return nn.Dense(num_classes, kernel_init=he_normal, name=HEAD)(x)
