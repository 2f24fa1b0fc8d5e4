"""The summary of a model, printed: its layers, or several models compared."""

from __future__ import annotations

from collections.abc import Sequence

from ml_collections import ConfigDict
from rich.table import Table

from flaxres.config import check_config, model_name
from flaxres.data import dataset_shape
from flaxres.models import create_model
from flaxres.models.layer_counts import Layer, block_weights, summarize
from flaxres.terminal import print_table


def print_summary(config: ConfigDict) -> None:
    """Prints the table of layers of the config's net, and its totals.

    Raises:
      UserError: a bad config, or a data set that is not there to say how large its images are.
    """
    layers, size = _layers(config)
    table = Table(title=f"{model_name(config.model)} on {config.dataset.name} ({size})")
    for column in ("layer", "kind", "output", "params", "MACs", "activations"):
        table.add_column(column, justify="left" if column in ("layer", "kind") else "right")
    for layer in layers:
        shape = "x".join(map(str, layer.output_shape))
        counts = (f"{count:,}" if count else "" for count in (layer.macs, layer.activations))
        table.add_row(layer.name, layer.kind, shape, f"{layer.params:,}", *counts)
    params, macs, activations = _totals(layers)
    table.add_section()
    table.add_row("total", "", "", f"{params:,}", f"{macs:,}", f"{activations:,}")
    print_table(
        table,
        f"{params:,} params, {_millions(macs)} MACs, {_millions(activations)} activations",
    )


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
        table.add_row(model_name(config.model), str(config.model.depth), f"{params:,}", *counts)
    print_table(table)
    blocks = {model_name(config.model): block_weights(layers) for config, layers, _ in rows}
    channels = sorted(set().union(*blocks.values()))
    if not channels:
        return
    table = Table(title="weights of the convolutions in a block, by its channels")
    for column in ("net", *map(str, channels)):
        table.add_column(column, justify="left" if column == "net" else "right")
    for net, weights in blocks.items():
        if weights:
            table.add_row(net, *(f"{weights[c]:,}" if c in weights else "" for c in channels))
    print_table(table)


def _layers(config: ConfigDict) -> tuple[list[Layer], str]:
    """Layers of the config's net, and the size of its images."""
    check_config(config)
    image_shape, num_classes = dataset_shape(config.dataset)
    layers = summarize(create_model(config.model, num_classes, config.dtype), image_shape)
    return layers, "x".join(map(str, image_shape))


def _totals(layers: Sequence[Layer]) -> tuple[int, int, int]:
    """Params, MACs and activations."""
    counts = ((layer.params, layer.macs, layer.activations) for layer in layers)
    return tuple(map(sum, zip(*counts, strict=True)))


def _millions(count: int) -> str:
    """With four digits, as the papers give them."""
    return f"{count / 1e6:,.4g}M" if count < 1e10 else f"{count / 1e6:,.0f}M"
