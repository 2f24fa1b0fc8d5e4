"""Channel order of PyTorch models whose shortcuts pad with zeros on both sides.

Shortcut option A appends channels of zeros where the number of channels grows. Many CIFAR models in
PyTorch put half of them before the other channels: `F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes //
4, planes // 4))`. Such a model equals one that appends all zeros, with its channels in a different
order. `reorder_channels` converts the weights to the order of flaxres.
"""

from __future__ import annotations

import re

import numpy as np
from jaxtyping import Float32, Int
from ml_collections import ConfigDict

from flaxres.errors import ConfigError
from flaxres.models import resnet
from flaxres.models.layers import HEAD

Order = Int[np.ndarray, " channels"]


def channel_orders(model: ConfigDict) -> list[Order]:
    """Returns the order of the channels after the stem and after each stage.

    Args:
      model: `config.model` of the run.

    Returns:
      One array per position, with the PyTorch index of each flaxres channel.

    Raises:
      ConfigError: a stage adds an odd number of channels, which cannot be halved.
    """
    expansion = resnet.EXPANSION if model.block == "bottleneck" else 1
    orders = [np.arange(model.widths[0])]
    for width in model.widths:
        order = orders[-1]
        channels = expansion * width
        before, odd = divmod(channels - len(order), 2)
        if odd:
            raise ConfigError(
                "transfer.shortcut_padding must be end if a stage adds an odd number of channels, "
                f"got 'both-sides' for {len(order)} channels that become {channels}"
            )
        after = np.arange(before + len(order), channels)
        orders.append(np.concatenate([before + order, np.arange(before), after]))
    return orders


def reorder_channels(
    variables: dict[str, Float32[np.ndarray, " ..."]], model: ConfigDict
) -> dict[str, Float32[np.ndarray, " ..."]]:
    """Reorders the channels between blocks from PyTorch's order to the order of flaxres.

    Only channels between blocks are padded; channels within a block keep their order.

    Args:
      variables: arrays by path, such as params/stage1_block1/conv1/kernel, in the layout of Flax.
      model: `config.model` of the run.

    Raises:
      ConfigError: a stage adds an odd number of channels.
    """
    orders = channel_orders(model)
    last = str(resnet.LAYERS_PER_BLOCK[model.block])  # number of a block's last convolution
    reordered = dict(variables)
    for path, array in variables.items():
        _, module, *_, leaf = path.split("/")
        if module == HEAD and leaf == "kernel":
            reordered[path] = array[orders[-1]]
        if not (match := re.search(r"stage(\d+)_block(\d+)/(conv|norm)(\d)/", path)):
            continue
        stage, block, _, number = match.groups()
        array = array[..., orders[int(stage)]] if number == last else array
        if path.endswith("conv1/kernel"):
            array = array[:, :, orders[int(stage) - (block == "1")]]
        reordered[path] = array
    return reordered
