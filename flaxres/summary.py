"""Printed summaries of models: the layers of one model, or several models compared."""

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
    """Prints a table of the layers of the config's model, with totals.

    Raises:
      UserError: the config is invalid, or the data set, which gives the image shape, is missing.
    """
    layers, image_shape = _summarize_config(config)
    table = Table(title=f"{model_name(config.model)} on {config.dataset.name} ({image_shape})")
    for column in ("layer", "kind", "output", "params", "MACs", "activations"):
        table.add_column(column, justify="left" if column in ("layer", "kind") else "right")
    for layer in layers:
        output_shape = "x".join(map(str, layer.output_shape))
        counts = (f"{count:,}" if count else "" for count in (layer.macs, layer.activations))
        table.add_row(layer.name, layer.kind, output_shape, f"{layer.params:,}", *counts)
    params, macs, activations = _totals(layers)
    table.add_section()
    table.add_row("total", "", "", f"{params:,}", f"{macs:,}", f"{activations:,}")
    print_table(
        table,
        f"{params:,} params, {_millions(macs)} MACs, {_millions(activations)} activations",
    )


def print_comparison(configs: Sequence[ConfigDict]) -> None:
    """Prints one line per model with its depth, params, MACs and activations.

    If the models have residual blocks, a second table lists the weights of one block by its number
    of channels. It shows what a bottleneck saves.

    Args:
      configs: configs with different models and the same data set.

    Raises:
      UserError: a config is invalid, or the data set, which gives the image shape, is missing.
    """
    rows = [(config, *_summarize_config(config)) for config in configs]
    dataset = configs[0].dataset.name
    table = Table(title=f"models on {dataset} ({rows[0][2]})")
    for column in ("model", "depth", "params", "MACs", "activations"):
        table.add_column(column, justify="left" if column == "model" else "right")
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
    for column in ("model", *map(str, channels)):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, weights in blocks.items():
        if weights:
            table.add_row(name, *(f"{weights[c]:,}" if c in weights else "" for c in channels))
    print_table(table)


def _summarize_config(config: ConfigDict) -> tuple[list[Layer], str]:
    """Returns the layers of the config's model, and its image shape as text, such as 32x32x3."""
    check_config(config)
    image_shape, num_classes = dataset_shape(config.dataset)
    layers = summarize(create_model(config.model, num_classes, config.dtype), image_shape)
    return layers, "x".join(map(str, image_shape))


def _totals(layers: Sequence[Layer]) -> tuple[int, int, int]:
    """Returns the totals of params, MACs and activations."""
    return (
        sum(layer.params for layer in layers),
        sum(layer.macs for layer in layers),
        sum(layer.activations for layer in layers),
    )


def _millions(count: int) -> str:
    """Formats a count in millions with four digits, as in the papers."""
    return f"{count / 1e6:,.4g}M" if count < 1e10 else f"{count / 1e6:,.0f}M"
