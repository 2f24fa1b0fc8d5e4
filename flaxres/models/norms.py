"""Normalisation layers, chosen by name: one field, `norm`, for every net."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.typing import DTypeLike

from flaxres.cpu import kernels
from flaxres.errors import ConfigError

NORMS = ("batch", "layer", "group", "instance", "instance-running", "none")
BN_SCOPES = ("global", "device")


class NoNorm(nn.Module):
    """Stands where a norm would: returns its input, has no parameters."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x`."""
        return x


class BatchNorm(nn.BatchNorm):
    """Flax's batch norm, which can add something and take the ReLU in the same go.

    On a CPU that saves several passes over memory (`flaxres.cpu.kernels`); elsewhere XLA fuses
    what follows a norm by itself.
    """

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        add: jax.Array | None = None,
        relu: bool = False,
        for_convolution: bool = False,
    ) -> jax.Array | Callable[..., jax.Array]:
        """Batch norm and what follows it.

        Args:
          x: (batch, height, width, channels).
          add: of the shape of `x`, added to its norm; or None.
          relu: take the ReLU of that.
          for_convolution: return a function in the place of `lax.conv_general_dilated` that takes
            `x` and convolves the ReLU of its norm. Only in training, and for an `x` that
            `kernels.supports_norm`.
        """
        if not kernels.supports_norm(x) or (add is not None and not relu):
            y = super().__call__(x)
            y = y if add is None else y + add
            return nn.relu(y) if relu else y
        channels = x.shape[-1:]
        scale = self.param("scale", self.scale_init, channels)
        bias = self.param("bias", self.bias_init, channels)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        if self.use_running_average:
            return kernels.normalize(x, scale, bias, mean.value, var.value, add, self.epsilon, relu)
        axis = None if self.is_initializing() else self.axis_name

        def update(*statistics: jax.Array) -> None:
            if not self.is_initializing():
                for running, own in zip((mean, var), statistics, strict=True):
                    running.value = self.momentum * running.value + (1 - self.momentum) * own

        if for_convolution:

            def convolve(x, kernel, strides, padding, **options):
                if kernels.supports_convolution(x, kernel, strides, padding, options):
                    window = (strides[0], padding[0][0])
                    y, *statistics = kernels.norm_relu_convolve(
                        x, scale, bias, kernel, self.epsilon, axis, *window
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
    """Flax's instance norm, over height and width of each image and channel; with scale and bias.

    Raises (when called):
      ConfigError: maps of one pixel, which it would make the bias whatever they hold.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, channels), the same out as in."""
        if x.shape[1] * x.shape[2] == 1:
            raise ConfigError(
                "model.norm cannot be instance norm here: a map of 1 x 1 pixels has no variance; "
                "give larger images or another norm"
            )
        return super().__call__(x)


class GroupNorm(nn.GroupNorm):
    """Flax's group norm, over height, width and `group_size` channels; with scale and bias.

    Raises (when called):
      ConfigError: channels that the size of a group does not divide.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, channels), the same out as in."""
        if x.shape[-1] % self.group_size:
            raise ConfigError(
                f"model.norm cannot be group norm here: {x.shape[-1]} channels are not groups of "
                f"{self.group_size}; choose other widths or another norm"
            )
        return super().__call__(x)


class RunningInstanceNorm(nn.Module):
    """Instance norm that evaluates by running statistics, the means of those of the images.

    Attributes:
      use_running_average: normalise by them.
      momentum: weight of the old ones.
      epsilon: added to the variance.
      dtype: of the output.
      axis_name: see `make_norm`.
      scale_init: of the scale.
    """

    use_running_average: bool
    momentum: float
    epsilon: float
    dtype: DTypeLike
    axis_name: str | None = None
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, channels), the same out as in."""
        channels = x.shape[-1:]
        scale = self.param("scale", self.scale_init, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        # Not 'mean' and 'var', which `pool_running_statistics` takes for those of a joined batch.
        names = ("instance_mean", "instance_var")
        running = [
            self.variable("batch_stats", name, init, channels)
            for name, init in zip(names, (jnp.zeros, jnp.ones), strict=True)
        ]
        mean, var = (variable.value for variable in running)
        if not self.use_running_average:
            alone = InstanceNorm(self.epsilon, use_bias=False, use_scale=False, parent=None)
            y = alone.apply({}, x.astype(jnp.float32))
            own = [x.mean((1, 2), dtype=jnp.float32), x.var((1, 2), dtype=jnp.float32)]
            own = [statistic.mean(0) for statistic in own]
            if not self.is_initializing():
                own = own if self.axis_name is None else jax.lax.pmean(own, self.axis_name)
                for variable, value in zip(running, own, strict=True):
                    variable.value = self.momentum * variable.value + (1 - self.momentum) * value
        else:
            y = (x.astype(jnp.float32) - mean) * jax.lax.rsqrt(var + self.epsilon)
        return jnp.asarray(y * scale + bias, self.dtype)


def norm_relu(norm: nn.Module, x: jax.Array, add: jax.Array | None = None) -> jax.Array:
    """ReLU of norm(x) + add, the last two layers of a block; `add` may be None."""
    if isinstance(norm, BatchNorm):
        return norm(x, add=add, relu=True)
    y = norm(x)
    return nn.relu(y if add is None else y + add)


def norm_relu_conv(norm: nn.Module, conv: Callable[..., nn.Module], x: jax.Array) -> jax.Array:
    """The convolution of ReLU(norm(x)); `conv` is a constructor, called without further arguments.

    On a CPU, in training, the convolution normalises what it reads, so that nothing is written.
    """
    in_kernels = isinstance(norm, BatchNorm) and kernels.supports_norm(x)
    if in_kernels and not norm.use_running_average:
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
    """Returns a constructor of norm modules; call it with `name=` inside a block.

    Statistics and parameters are float32 whatever the compute `dtype` is.

    Args:
      name: one of `NORMS`. 'batch' and 'instance-running' keep running statistics, in the
        collection `batch_stats`.
      train: normalise by the batch's own statistics (True) or by the running ones (False).
      dtype: type of the output.
      momentum: weight of the old running statistics, so 0.9 here is PyTorch's 0.1.
      epsilon: added to the variance.
      axis: name of an axis of devices over which batch norm takes its statistics together; None
        for those of each device's own images.

    Raises:
      ValueError: `name` is not one of `NORMS`.
    """
    running = {
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
    if name == "group":  # groups of 8 channels: every width of the CIFAR nets divides by it
        return functools.partial(
            GroupNorm, num_groups=None, group_size=8, epsilon=epsilon, dtype=dtype
        )
    if name == "instance":
        return functools.partial(InstanceNorm, epsilon=epsilon, dtype=dtype)
    if name == "instance-running":
        return functools.partial(RunningInstanceNorm, **running)
    if name == "none":
        return NoNorm
    raise ValueError(f"model.norm must be one of {', '.join(NORMS)}, got {name!r}")


def pool_running_statistics(batch_stats: dict, axis: str, momentum: float) -> dict:
    """Running statistics of the joined batch from those that each device updated with its own.

    All devices start a step from the same running statistics r and device i makes them
    r_i = momentum * r + (1 - momentum) * b_i with the b_i of its images. The mean of a joined batch
    is the mean of the means; its variance the mean of the variances plus the variance between the
    means, which (r_i - mean r_i) / (1 - momentum) = b_i - mean b_i gives back.

    Args:
      batch_stats: collection of `nn.BatchNorm`s ('mean' and 'var' of each), on every device.
      axis: name of the axis of devices, which hold equally many images.
      momentum: weight of the old running statistics.

    Returns:
      The same on every device: what `nn.BatchNorm` would have made of the joined batch.
    """
    own = traverse_util.flatten_dict(batch_stats)
    pooled = jax.lax.pmean(own, axis)
    deviation = {path[:-1]: (own[path] - pooled[path]) ** 2 for path in own if path[-1] == "mean"}
    between = jax.lax.pmean(deviation, axis)
    for path in own:
        if path[-1] == "var":
            pooled[path] += between[path[:-1]] / (1 - momentum)
    return traverse_util.unflatten_dict(pooled)
