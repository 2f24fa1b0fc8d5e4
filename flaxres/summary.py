"""Layers of a net with output shape, params, MACs and activations, counted from the real module."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from flaxres.config import check_config, net_name
from flaxres.data import dataset_shape
from flaxres.models import create_model


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer as it ran.

    Attributes:
      name: path in the parameter tree.
      kind: class of the module.
      output_shape: of one image, without the batch axis.
      params: trainable parameters.
      macs: multiply-adds of convolutions and dense layers for one image, as the papers count.
      activations: outputs of a convolution or dense layer for one image, which is what Radosavovic
        2020 (arXiv 2003.13678) counts.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    activations: int


def summarise(model: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """Runs `model` on shapes alone and lists its layers in the order they ran.

    Args:
      model: a net of `flaxres.models`.
      image_shape: (height, width, channels).
    """
    layers = []

    def record(call, args, kwargs, context):
        output = call(*args, **kwargs)
        module = context.module
        own = module.variables.get("params", {})
        is_layer = own and not any(isinstance(value, dict) for value in own.values())
        path = "/".join(module.path)
        # A module that extends another of flax's may call that one's method on the way.
        is_new = not layers or layers[-1].name != path
        if is_layer and is_new and context.method_name == "__call__":
            shape = output.shape[1:]
            # Each output value of a convolution or dense layer takes one multiply-add per weight
            # of its filter; its channels are the kernel's last axis, the space is the rest.
            has_kernel = "kernel" in own
            macs = math.prod(shape[:-1]) * own["kernel"].size if has_kernel else 0
            params = sum(value.size for value in own.values())
            activations = math.prod(shape) if has_kernel else 0
            layers.append(Layer(path, type(module).__name__, shape, params, macs, activations))
        return output

    def forward(images):
        with nn.intercept_methods(record):
            return model.init_with_output(jax.random.key(0), images, train=False)

    jax.eval_shape(forward, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    return layers


def print_summary(config: ConfigDict) -> None:
    """Prints the table of layers of the config's net, and its totals.

    Raises:
      UserError: a bad config, or a data set that is not there to say how large its images are.
    """
    layers, size = _layers(config)
    table = Table(title=f"{net_name(config.model)} on {config.dataset.name} ({size})")
    for column in ("layer", "kind", "output", "params", "MACs", "activations"):
        table.add_column(column, justify="left" if column in ("layer", "kind") else "right")
    for layer in layers:
        shape = "x".join(map(str, layer.output_shape))
        counts = (f"{count:,}" if count else "" for count in (layer.macs, layer.activations))
        table.add_row(layer.name, layer.kind, shape, f"{layer.params:,}", *counts)
    params, macs, activations = _totals(layers)
    table.add_section()
    table.add_row("total", "", "", f"{params:,}", f"{macs:,}", f"{activations:,}")
    console = _console()
    console.print(table)
    console.print(
        f"{params:,} params, {_millions(macs)} MACs, {_millions(activations)} activations",
        highlight=False,
    )


def block_weights(layers: Sequence[Layer]) -> dict[int, int]:
    """Weights of the convolutions in a block by its channels: He15, figure 5.

    Of blocks that keep size and channels, so those of the identity shortcut; gates are not counted.
    A net without such blocks has none.
    """
    blocks: dict[str, list[Layer]] = {}
    for layer in layers:
        block, _, name = layer.name.rpartition("/")
        if layer.macs and name.startswith("conv") and not block.endswith("_block1"):
            blocks.setdefault(block, []).append(layer)
    blocks.pop("", None)  # convolutions outside of blocks
    return {
        convs[-1].output_shape[-1]: sum(conv.params for conv in convs)
        for block, convs in blocks.items()
        if "_block" in block
    }


def print_comparison(configs: Sequence[ConfigDict]) -> None:
    """Prints a line for the net of each config: depth, params, MACs and activations.

    Then, where nets have blocks, the weights of one by its channels, which shows what a bottleneck
    saves.

    Raises:
      UserError: see `print_summary`.
    """
    rows = [(config, *_layers(config)) for config in configs]
    dataset = configs[0].dataset.name
    table = Table(title=f"nets on {dataset} ({rows[0][2]})")
    for column in ("net", "depth", "params", "MACs", "activations"):
        table.add_column(column, justify="left" if column == "net" else "right")
    for config, layers, _ in rows:
        params, macs, activations = _totals(layers)
        counts = (_millions(count) for count in (macs, activations))
        table.add_row(net_name(config.model), str(config.model.depth), f"{params:,}", *counts)
    console = _console()
    console.print(table)
    blocks = {net_name(config.model): block_weights(layers) for config, layers, _ in rows}
    channels = sorted(set().union(*blocks.values()))
    if not channels:
        return
    table = Table(title="weights of the convolutions in a block, by its channels")
    for column in ("net", *map(str, channels)):
        table.add_column(column, justify="left" if column == "net" else "right")
    for net, weights in blocks.items():
        if weights:
            table.add_row(net, *(f"{weights[c]:,}" if c in weights else "" for c in channels))
    console.print(table)


def _layers(config: ConfigDict) -> tuple[list[Layer], str]:
    """Layers of the config's net, and the size of its images."""
    check_config(config)
    image_shape, num_classes = dataset_shape(config.dataset)
    layers = summarise(create_model(config.model, num_classes, config.dtype), image_shape)
    return layers, "x".join(map(str, image_shape))


def _totals(layers: Sequence[Layer]) -> tuple[int, int, int]:
    """Params, MACs and activations."""
    counts = ((layer.params, layer.macs, layer.activations) for layer in layers)
    return tuple(map(sum, zip(*counts, strict=True)))


def _millions(count: int) -> str:
    """With four digits, as the papers give them."""
    return f"{count / 1e6:,.4g}M" if count < 1e10 else f"{count / 1e6:,.0f}M"


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = 110  # a file or pipe has no width of its own
    return console
