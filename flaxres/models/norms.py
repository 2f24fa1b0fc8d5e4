"""Normalization layers, chosen by the config field `model.norm` for every model."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from flaxres.errors import ConfigError, counted
from flaxres.models.batch_norm import BatchNorm
from flaxres.suggestions import did_you_mean

NORMS = ("batch", "layer", "group", "instance", "instance-running", "none", "layer-channels")
BN_SCOPES = ("global", "device")


class NoNorm(nn.Module):
    """Identity without parameters, for models without a norm.

    Attributes:
      activation: function that `norm_relu` and `norm_relu_conv` apply instead of ReLU.
    """

    activation: Callable[..., Array] = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array | np.ndarray, ...]) -> Float[Array | np.ndarray, ...]:
        """Returns `x`."""
        return x


class InstanceNorm(nn.InstanceNorm):
    """Flax's instance norm, over height and width of each image and channel.

    Raises (when called):
      ConfigError: the feature maps have one pixel, whose normalized value would always be 0.
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array | np.ndarray, "batch height width channels"],
        *,
        mask: Bool[Array, ...] | None = None,
    ) -> Float[Array, "batch height width channels"]:
        """Applies the norm; `mask` is that of `nn.InstanceNorm`."""
        if x.shape[1] * x.shape[2] == 1:
            raise ConfigError(
                "model.norm cannot be instance norm here: a feature map of 1 x 1 pixels has no "
                "variance; use larger images or another norm"
            )
        return super().__call__(x, mask=mask)


class GroupNorm(nn.GroupNorm):
    """Flax's group norm, over height, width and `group_size` channels.

    Raises (when called):
      ConfigError: the number of channels is not a multiple of `group_size`.
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array | np.ndarray, "batch height width channels"],
        *,
        mask: Bool[Array, ...] | None = None,
    ) -> Float[Array, "batch height width channels"]:
        """Applies the norm; `mask` is that of `nn.GroupNorm`."""
        if self.group_size is not None and x.shape[-1] % self.group_size:
            raise ConfigError(
                f"model.norm cannot be group norm here: {counted(x.shape[-1], 'channel')} cannot "
                f"be divided into groups of {self.group_size}; choose other widths or another norm"
            )
        return super().__call__(x, mask=mask)


class RunningInstanceNorm(nn.Module):
    """Instance norm that uses running statistics, averaged over images, in evaluation.

    Attributes:
      use_running_average: if True, normalizes with the running statistics.
      momentum: weight of the previous running statistics in an update.
      epsilon: constant added to the variance.
      dtype: dtype of the output.
      axis_name: name of the device axis that the statistics are averaged over, or None.
      scale_init: initializer of the scale.
    """

    use_running_average: bool
    momentum: float
    epsilon: float
    dtype: DTypeLike
    axis_name: str | None = None
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Applies the norm."""
        channels = x.shape[-1:]
        scale = self.param("scale", self.scale_init, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        # Not 'mean' and 'var', which `pool_running_statistics` treats as those of batch norm.
        names = ("instance_mean", "instance_var")
        running = [
            self.variable("batch_stats", name, init, channels)
            for name, init in zip(names, (jnp.zeros, jnp.ones), strict=True)
        ]
        mean, var = (variable.value for variable in running)
        if not self.use_running_average:
            instance_norm = InstanceNorm(self.epsilon, use_bias=False, use_scale=False, parent=None)
            y = instance_norm.bind({})(jnp.asarray(x, jnp.float32))
            moments = (x.mean((1, 2), dtype=jnp.float32), x.var((1, 2), dtype=jnp.float32))
            averages = [moment.mean(0) for moment in moments]
            if not self.is_initializing():
                if self.axis_name is not None:
                    averages = jax.lax.pmean(averages, self.axis_name)
                for variable, average in zip(running, averages, strict=True):
                    variable.value = self.momentum * variable.value + (1 - self.momentum) * average
        else:
            y = (jnp.asarray(x, jnp.float32) - mean) * jax.lax.rsqrt(var + self.epsilon)
        return jnp.asarray(y * scale + bias, self.dtype)


_separate = contextvars.ContextVar("_separate", default=False)


@contextlib.contextmanager
def separate_norms() -> Iterator[None]:
    """Computes norms by themselves in code traced in this context.

    Interceptors of Flax need it to see the outputs of all norms.
    """
    token = _separate.set(True)
    try:
        yield
    finally:
        _separate.reset(token)


def norm_relu(
    norm: nn.Module,
    x: Float[Array | np.ndarray, "batch height width channels"],
    add: Float[Array | np.ndarray, "batch height width channels"] | None = None,
    factor: Float[Array | np.ndarray, "*channels"] | None = None,
) -> Float[Array, "batch height width channels"]:
    """Returns ReLU(factor * norm(x) + add), or with the activation of a `NoNorm`.

    Args:
      norm: the norm.
      x: feature maps.
      add: the addend; None for zero.
      factor: the factor, () or (channels,); None for 1.
    """
    if isinstance(norm, BatchNorm):
        return cast(jax.Array, norm(x, add=add, relu=True, factor=factor))
    y = norm(x)
    y = y if factor is None else jnp.asarray(y * factor, y.dtype)
    activation = norm.activation if isinstance(norm, NoNorm) else nn.relu
    return activation(y if add is None else y + add)


def norm_relu_conv(
    norm: nn.Module,
    conv: Callable[..., nn.Module],
    x: Float[Array | np.ndarray, "batch height width channels"],
) -> Float[Array, "batch out_height out_width filters"]:
    """Returns conv(ReLU(norm(x))).

    On a CPU the convolution normalizes the pixels as it reads them, so the normalized feature maps
    are never written to memory, except within `separate_norms`.

    Args:
      norm: the norm.
      conv: constructor of the convolution, called without positional arguments.
      x: feature maps.
    """
    if isinstance(norm, BatchNorm) and norm.uses_kernels(x) and not _separate.get():
        return conv(conv_general_dilated=norm(x, for_convolution=True))(x)
    return conv()(norm_relu(norm, x))


def make_norm(
    name: str,
    *,
    train: bool,
    dtype: DTypeLike,
    momentum: float,
    epsilon: float,
    axis: str | None = None,
) -> Callable[..., nn.Module]:
    """Returns a constructor of norm modules. Call it with `name=` inside a block.

    Statistics and parameters are float32, whatever the compute `dtype` is.

    Args:
      name: one of `NORMS`. 'batch' and 'instance-running' keep running statistics in the collection
        `batch_stats`.
      train: if True, norms use statistics of the batch; if False, running statistics.
      dtype: dtype of the output.
      momentum: weight of the previous running statistics in an update; 0.9 is PyTorch's 0.1.
      epsilon: constant added to the variance.
      axis: name of the device axis that batch norm averages statistics over. With None, each
        device uses statistics of its own images.

    Raises:
      ValueError: `name` is not one of `NORMS`.
    """
    running: dict[str, Any] = {
        "use_running_average": not train,
        "momentum": momentum,
        "epsilon": epsilon,
        "dtype": dtype,
        "axis_name": axis,
    }
    if name == "batch":
        return functools.partial(BatchNorm, **running)
    if name == "layer":  # over height, width and channels of each image
        return functools.partial(
            nn.LayerNorm, epsilon=epsilon, dtype=dtype, reduction_axes=(-3, -2, -1)
        )
    if name == "layer-channels":  # over the channels of each pixel, as in Transformers
        return functools.partial(nn.LayerNorm, epsilon=epsilon, dtype=dtype)
    if name == "group":  # 8 channels a group, which divides every width of the CIFAR models
        return functools.partial(
            GroupNorm, num_groups=None, group_size=8, epsilon=epsilon, dtype=dtype
        )
    if name == "instance":
        return functools.partial(InstanceNorm, epsilon=epsilon, dtype=dtype)
    if name == "instance-running":
        return functools.partial(RunningInstanceNorm, **running)
    if name == "none":
        return NoNorm
    raise ValueError(
        f"model.norm must be one of {', '.join(NORMS)}, got {name!r}{did_you_mean(name, NORMS)}"
    )
