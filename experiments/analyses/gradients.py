"""Vanishing and exploding gradients: what is propagated through each layer, over training.

python -m experiments.analyze gradients --workdir=runs/gradient_flow --only='*/seed-0'

He15 (arXiv 1512.03385), section 4.1, finds that plain nets with batch norm have gradients of
healthy norms and degrade all the same; without it they vanish or explode with depth (He et al.
2015, arXiv 1502.01852, section 2.2). Taken from layers.jsonl, which a run writes with
--config.log_layers_every; of a run without, the initial state and the newest checkpoint are
measured. See `flaxres.training.layer_statistics` for what the quantities are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from matplotlib.axes import Axes

from experiments.analyses.base import (
    load,
    on_one_device,
    read_run_config,
    short_names,
    write_rows,
)
from experiments.results import plot_style
from experiments.results.run_names import run_name
from flaxres.data import load_dataset
from flaxres.errors import ConfigError
from flaxres.run.metric_writers import read_metrics
from flaxres.run.workdir import LAYERS_FILE
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.layer_statistics import QUANTITIES

# {'step': step, quantity: {layer: number or None}, ...}; see `flaxres.training.layer_statistics`.
Record = dict[str, object]
LABELS = {
    "gradient": "gradient of the kernel (L2 norm)",
    "backward": "gradient of the outputs (L2 norm)",
    "activation": "outputs (root mean square)",
}
RANGE = (1e-12, 1e12)  # of a logarithmic axis; what is beyond is drawn at its edge
OUTSIDE = "numbers outside 1e-12 to 1e12 are drawn at the edge"
MOST_CURVES = len(plot_style.COLORS) * len(plot_style.LINES)  # that can be told apart


def records_of_run(directory: Path) -> list[Record]:
    """The records of layers.jsonl; or of the initial state and the newest checkpoint.

    Raises:
      UserError: there is neither a file nor a checkpoint.
    """
    if records := read_metrics(directory, LAYERS_FILE):
        return records
    run = load(directory)
    compiled_steps = CompiledSteps(on_one_device(run.config), load_dataset(run.config.dataset))
    arrays = compiled_steps.put(run.dataset.train)
    initial = compiled_steps.initial_state()
    trained = initial.replace(**run.variables, step=np.int32(run.step))
    records = []
    for step, state in ((0, initial), (run.step, compiled_steps.devices.replicate(trained))):
        values = compiled_steps.launch_layer_statistics(state, arrays, step)
        records.append(compiled_steps.layer_statistics.record(step, jax.device_get(values)))
    return records


def rows_of_run(name: str, records: Sequence[Record]) -> list[dict[str, object]]:
    """A row for each layer of each record: its number from 1, name, and the quantities."""
    return [
        {
            **{"run": name, "step": record["step"], "number": number, "layer": layer},
            **{quantity: record[quantity][layer] for quantity in QUANTITIES},
        }
        for record in records
        for number, layer in enumerate(record[QUANTITIES[0]], start=1)
    ]


def analyze(directories: Sequence[Path], output: Path) -> list[Path]:
    """Quantities by layer at the start and at the end, and over training; returns the files.

    Raises:
      UserError: a run of which nothing is known, or more runs than a figure can show.
    """
    if len(directories) > MOST_CURVES:
        raise ConfigError(
            f"gradients of at most {MOST_CURVES} runs can be told apart, got {len(directories)}; "
            "choose some with --only, e.g. --only='*/seed-0'"
        )
    runs = {run_name(directory): records_of_run(directory) for directory in directories}
    labels = short_names(list(runs))
    rows = [row for name, records in runs.items() for row in rows_of_run(name, records)]
    datasets = {read_run_config(directory).dataset.name for directory in directories}
    where = ", ".join(sorted(datasets))
    files = [write_rows(rows, output / "gradients.csv")]
    runs = dict(zip(labels, runs.values(), strict=True))
    files += _draw_layers(runs, output / "gradients", where)
    return files + _draw_training(runs, output / "gradients_over_training", where)


def _draw_layers(runs: dict[str, list[Record]], path: Path, where: str) -> list[Path]:
    """A row of panels for each quantity: before the first step, and at the last record."""
    figure, panels = plot_style.grid(6, columns=2, size=(5.0, 2.9), sharey="row")
    for row, quantity in enumerate(QUANTITIES):
        for column, title in enumerate(("before the first step", "at the last record")):
            axes = panels[2 * row + column]
            for number, (name, records) in enumerate(runs.items()):
                record = records[0] if column == 0 else records[-1]
                values = _numbers(record[quantity].values())
                look = plot_style.curve_style(number, len(values))
                axes.plot(range(1, len(values) + 1), values, label=name, **look)
            _finish(axes, "layer, in order", LABELS[quantity] if column == 0 else "")
            axes.set_title(title if row == 0 else "")
    _legend(figure, panels[0])
    return plot_style.save(figure, path, f"{where}: gradients and outputs of each layer; {OUTSIDE}")


def _draw_training(runs: dict[str, list[Record]], path: Path, where: str) -> list[Path]:
    """A panel for each run: the gradient of the outputs over training at a few layers."""
    figure, panels = plot_style.grid(len(runs), columns=3, sharex=True, sharey=True)
    for axes, (name, records) in zip(panels, runs.items(), strict=True):
        layers = list(records[0]["backward"])
        chosen = dict.fromkeys((layers[0], *(layers[len(layers) * i // 4] for i in (1, 2, 3))))
        steps = [record["step"] for record in records]
        for number, layer in enumerate((*chosen, layers[-1])):
            values = _numbers(record["backward"].get(layer) for record in records)
            place = f"layer {layers.index(layer) + 1} of {len(layers)}"
            axes.plot(steps, values, label=place, **plot_style.curve_style(number, len(steps)))
        _finish(axes, "iterations", LABELS["backward"])
        axes.set_title(name, fontsize="medium")
        axes.label_outer()
    _legend(figure, panels[0])
    return plot_style.save(figure, path, f"{where}: gradients over training; {OUTSIDE}")


def _numbers(values) -> np.ndarray:
    """Those that are finite within the range of the axis; others are nan, 0 its lower end."""
    numbers = np.array([np.nan if value is None else value for value in values], float)
    return np.clip(numbers, *RANGE)


def _finish(axes: Axes, xlabel: str, ylabel: str) -> None:
    plot_style.label_axes(axes, xlabel, ylabel)
    axes.set_yscale("log")


def _legend(figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
