"""Normalization layers, chosen by the config field `model.norm` for every model."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.flatten_util import ravel_pytree
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from flaxres.cpu import kernels
from flaxres.cpu.running_norm import norm_relu_conv_general_dilated
from flaxres.errors import ConfigError
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


class BatchNorm(nn.BatchNorm):
    """Flax's batch norm, which can also apply the addition and the ReLU that follow it.

    On a CPU this saves several passes over memory (`flaxres.cpu.kernels`). On other devices XLA
    fuses a norm with the operations after it.
    """

    def uses_kernels(self, x: Float[Array | np.ndarray, "batch height width channels"]) -> bool:
        """Returns True if `flaxres.cpu.kernels` can apply the norm to `x`."""
        return kernels.supports_norm(x) and x.dtype == (self.dtype or jnp.float32)

    @nn.compact
    def __call__(
        self,
        x: Float[Array | np.ndarray, "batch height width channels"],
        use_running_average: bool | None = None,
        *,
        mask: Bool[Array, ...] | None = None,
        add: Float[Array | np.ndarray, "batch height width channels"] | None = None,
        relu: bool = False,
        factor: Float[Array | np.ndarray, "*channels"] | None = None,
        for_convolution: bool = False,
    ) -> Float[Array, "batch height width channels"] | Callable[..., Array]:
        """Applies batch norm and the operations that follow it.

        Args:
          x: feature maps.
          use_running_average: overrides the attribute of this name if that is None.
          mask: positions that the statistics include, or None for all, as in `nn.BatchNorm`.
          add: added to the normalized `x`, unless None.
          relu: if True, ReLU is applied last.
          factor: factor of the normalized `x` before the addition, () or (channels,); None for 1.
          for_convolution: if True, nothing is computed yet. The result is a function to use instead
            of `lax.conv_general_dilated`: it takes `x` and convolves the ReLU of its norm. Allowed
            only if `uses_kernels(x)`.
        """
        if not self.uses_kernels(x) or (add is not None and not relu) or mask is not None:
            y = super().__call__(x, use_running_average, mask=mask)
            y = y if factor is None else jnp.asarray(y * factor, y.dtype)
            y = y if add is None else y + add
            return nn.relu(y) if relu else y
        evaluates = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        channels = x.shape[-1:]
        scale = self.param("scale", self.scale_init, channels)
        bias = self.param("bias", self.bias_init, channels)
        if factor is not None:
            scale, bias = factor * scale, factor * bias
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        if evaluates:
            arrays = (scale, bias, mean.value, var.value)
            if for_convolution:
                return functools.partial(norm_relu_conv_general_dilated, arrays, self.epsilon)
            return kernels.normalize(x, *arrays, add, self.epsilon, relu)
        axis = None if self.is_initializing() else self.axis_name

        def update(*batch_statistics: Float[Array | np.ndarray, " channels"]) -> None:
            if not self.is_initializing():
                for running, statistic in zip((mean, var), batch_statistics, strict=True):
                    running.value = self.momentum * running.value + (1 - self.momentum) * statistic

        if for_convolution:

            def convolve(
                x: Float[Array | np.ndarray, "batch height width channels"],
                kernel: Float[Array | np.ndarray, "size size group_channels filters"],
                strides: Sequence[int],
                padding: Sequence[tuple[int, int]] | str,
                **options: Any,
            ) -> Float[Array, "batch out_height out_width filters"]:
                if kernels.supports_convolution(x, kernel, strides, padding, options):
                    window = (strides[0], int(padding[0][0]))
                    y, *statistics = kernels.norm_relu_convolve(
                        x, scale, bias, kernel.astype(jnp.float32), self.epsilon, axis, *window
                    )
                    update(*statistics)
                    return y
                y, *statistics = kernels.batch_norm(x, scale, bias, None, self.epsilon, True, axis)
                update(*statistics)
                return kernels.conv_general_dilated(y, kernel, strides, padding, **options)

            return convolve
        y, *statistics = kernels.batch_norm(x, scale, bias, add, self.epsilon, relu, axis)
        update(*statistics)
        return y


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
                f"model.norm cannot be group norm here: {x.shape[-1]} channels cannot be divided "
                f"into groups of {self.group_size}; choose other widths or another norm"
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


def pool_running_statistics(
    batch_stats: dict[str, Any], axis: str, momentum: float
) -> dict[str, Any]:
    """Pools the running statistics that each device updated with its own images.

    All devices start a step from the same running statistics r. Device i updates them to
    r_i = momentum * r + (1 - momentum) * b_i, where b_i are the statistics of its images. The mean
    of the whole batch is the mean of the means. Its variance is the mean of the variances plus the
    variance between the means, where (r_i - mean r_i) / (1 - momentum) = b_i - mean b_i.

    Args:
      batch_stats: on each device, the collection of its batch norms ('mean' and 'var' of each).
      axis: name of the device axis; all devices hold equally many images.
      momentum: weight of the previous running statistics in an update.

    Returns:
      On every device, the running statistics that batch norm over the whole batch would have.
    """
    if not jax.tree.leaves(batch_stats):
        return batch_stats
    # All layers are in one vector, because an all-reduce takes as long for one layer as for all.
    device, unravel = ravel_pytree(batch_stats)
    pooled = jax.lax.pmean(device, axis)
    between = unravel(jax.lax.pmean((device - pooled) ** 2, axis))
    flat, deviations = map(traverse_util.flatten_dict, (unravel(pooled), between))
    for path in flat:
        if path[-1] == "var":
            flat[path] += deviations[*path[:-1], "mean"] / (1 - momentum)
    return traverse_util.unflatten_dict(flat)
