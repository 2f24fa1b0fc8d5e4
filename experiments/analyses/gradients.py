"""Gradient norms and activation scales of each layer, over training.

flaxres analyze gradients --workdir=runs/gradient_flow --only='*/seed-0'

He15 (arXiv 1512.03385), section 4.1, finds that gradients of plain networks with batch norm have
healthy norms, so vanishing gradients do not explain the degradation. Without batch norm, gradients
vanish or explode with depth (He et al. 2015, arXiv 1502.01852, section 2.2). The analysis reads
layers.jsonl, which a run writes with --config.log_layers_every. For a run without that file, and
for weights, it measures the initial state and the trained model; the figure over training shows
only runs with that file, and its note names the others. `flaxres.training.layer_statistics`
defines the quantities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flaxres.errors import ConfigError, DamagedFileError, counted
from flaxres.experiments.analyses.base import (
    short_names,
    single_device_config,
    write_rows,
)
from flaxres.experiments.analyses.model_sources import ModelSource, each_measured
from flaxres.experiments.results import plot_style
from flaxres.experiments.results.tables import Row
from flaxres.pretrained.sources import SHIPPED
from flaxres.run.records import read_metrics
from flaxres.run.workdir import LAYERS_FILE
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.layer_statistics import QUANTITIES

# {'step': step, quantity: {layer: number, or None if it is not finite}, ...}
LayerRecord = Mapping[str, Any]
LABELS = {
    "gradient": "gradient of the kernel (L2 norm)",
    "backward": "gradient of the outputs (L2 norm)",
    "activation": "outputs (root mean square)",
}
# Relative depths of the layers that are drawn over training.
DEPTHS = {
    **{"first layer": 0, "layer at 1/4 of the depth": 1 / 4, "layer at 1/2 of the depth": 1 / 2},
    **{"layer at 3/4 of the depth": 3 / 4, "last layer": 1},
}
COLUMNS = 3  # of the figure over training
AXIS_RANGE = (1e-12, 1e12)  # of the logarithmic axes
CLIPPING_NOTE = "; values outside 1e-12 to 1e12 are drawn at the edge"
MAX_CURVES = len(plot_style.COLORS) * len(plot_style.LINES)  # with different styles


class LayerRecords(NamedTuple):
    """Records of the layers of a model.

    Attributes:
      records: one for each step.
      logged: True if training logged them; False if they are of the initial and the trained state.
    """

    records: Sequence[LayerRecord]
    logged: bool


def records_of_model(source: ModelSource) -> LayerRecords:
    """Returns the records of layers.jsonl, or records of the initial and the trained state.

    Raises:
      DamagedFileError: a record of layers.jsonl is damaged or has other layers than the first.
      ConfigError: weights do not have the initial state of their run.
      UserError: a run has neither layers.jsonl nor a checkpoint.
    """
    if logged := _logged_records(source):
        return LayerRecords(logged, logged=True)
    return LayerRecords(_measure_records(source), logged=False)


def _logged_records(source: ModelSource) -> Sequence[LayerRecord]:
    """Returns the records of layers.jsonl; none if there is no such file."""
    directory = source.directory
    records = [] if directory is None else read_metrics(directory, LAYERS_FILE)
    layers = records[0][QUANTITIES[0]].keys() if records else ()
    for number, record in enumerate(records, start=1):
        if not layers or any(record[quantity].keys() != layers for quantity in QUANTITIES):
            raise DamagedFileError(
                f"{directory}/{LAYERS_FILE}, line {number}: the layers must be those of line 1; "
                "restore the file, or remove this line"
            )
    return records


def _measure_records(source: ModelSource) -> Sequence[LayerRecord]:
    """Returns records of the initial and the trained state of a model."""
    _check_initial_state(source)
    run = source.load()
    compiled_steps = CompiledSteps(single_device_config(run.config), run.dataset)
    arrays = compiled_steps.put(run.dataset.train)
    initial = compiled_steps.initial_state()
    trained = dataclasses.replace(initial, **run.variables, step=jnp.int32(run.step))
    computed = []
    for step, state in ((0, initial), (run.step, compiled_steps.devices.replicate(trained))):
        values = compiled_steps.launch_layer_statistics(state, arrays, step)
        computed.append(compiled_steps.layer_statistics.record(step, jax.device_get(values)))
    return computed


def _check_initial_state(source: ModelSource) -> None:
    """Checks that the initial state of a run can be computed.

    Raises:
      ConfigError: the weights are those of a run that began with a file, whose path they lack.
    """
    init_from = source.config.init_from
    if source.directory is None and init_from is not None and init_from not in SHIPPED:
        raise ConfigError(
            f"the run of {source} was initialized from {init_from}, which a weights file does not "
            "contain; give the directory of the run with --workdir"
        )


def rows_of_run(name: str, records: Sequence[LayerRecord]) -> list[Row]:
    """Returns one row for each layer of each record, with its number from 1 and the quantities."""
    return [
        {
            **{"run": name, "step": record["step"], "number": number, "layer": layer},
            **{quantity: record[quantity][layer] for quantity in QUANTITIES},
        }
        for record in records
        for number, layer in enumerate(record[QUANTITIES[0]], start=1)
    ]


def analyze(sources: Sequence[ModelSource], output: Path) -> list[Path]:
    """Writes gradients.csv, draws the quantities by layer and over training, returns the files.

    Raises:
      UserError: a run has neither layers.jsonl nor a checkpoint, or there are more runs than a
        figure can show.
    """
    if len(sources) > MAX_CURVES:
        raise ConfigError(
            f"the figures can show at most {MAX_CURVES} runs, got {len(sources)}; select runs "
            "with --only, e.g. --only='*/seed-0'"
        )
    read = {source.name: records for source, records in each_measured(sources, records_of_model)}
    rows = [row for name in read for row in rows_of_run(name, read[name].records)]
    dataset = ", ".join(sorted({source.config.dataset.name for source in sources}))
    files = [write_rows(rows, output / "gradients.csv")]
    models = dict(zip(short_names(list(read)), read.values(), strict=True))
    curves = {name: model.records for name, model in models.items()}
    files += _draw_layers(curves, output / "gradients", dataset)
    logged = {name: model.records for name, model in models.items() if model.logged}
    left_out = [name for name in models if name not in logged]
    path = output / "gradients_over_training"
    return files + (_draw_training(logged, path, dataset, left_out) if logged else [])


def _draw_layers(runs: Mapping[str, Sequence[LayerRecord]], path: Path, dataset: str) -> list[Path]:
    """Draws each quantity by layer, before the first step and at the last record."""
    figure, panels = plot_style.grid(6, columns=2, size=(5.0, 2.9), sharey="row")
    last_steps = {records[-1]["step"] for records in runs.values()}
    last = (
        f"after {counted(min(last_steps), 'step')}"
        if len(last_steps) == 1
        else "at the last record"
    )
    for row, quantity in enumerate(QUANTITIES):
        for column, title in enumerate(("before the first step", last)):
            axes = panels[2 * row + column]
            for number, (name, records) in enumerate(runs.items()):
                record = records[0] if column == 0 else records[-1]
                values = _clip(record[quantity].values())
                style = plot_style.curve_style(number, len(values))
                label = plot_style.label_of(name)
                axes.plot(range(1, len(values) + 1), values, label=label, **style)
            _label_axes(axes, "layer, in order", LABELS[quantity] if column == 0 else "")
            axes.set_title(title if row == 0 else "")
    _draw_legend(figure, panels[0])
    text = f"{dataset}: gradients and outputs of each layer, for one training batch"
    return plot_style.save(figure, path, text + _clipping_note(panels))


def _draw_training(
    runs: Mapping[str, Sequence[LayerRecord]],
    path: Path,
    dataset: str,
    left_out: Sequence[str] = (),
) -> list[Path]:
    """Draws the gradient of the outputs of a few layers over training, one panel for each run.

    The layers have the same relative depth in all panels, because models may differ in depth. The
    note names the models in `left_out`, which have no log.
    """
    columns = 2 if len(runs) in (2, 4) else COLUMNS
    figure, panels = plot_style.grid(len(runs), columns, sharex=True, sharey=True)
    counts = {len(records[0]["backward"]) for records in runs.values()}
    for index, (axes, (name, records)) in enumerate(zip(panels, runs.items(), strict=True)):
        layers = list(records[0]["backward"])
        steps = [record["step"] for record in records]
        for number, (label, fraction) in enumerate(DEPTHS.items()):
            position = round(fraction * (len(layers) - 1))
            values = _clip(record["backward"].get(layers[position]) for record in records)
            if len(counts) == 1:
                label = f"layer {position + 1} of {len(layers)}"
            axes.plot(steps, values, label=label, **plot_style.curve_style(number, len(steps)))
        is_bottom, is_left = index + columns >= len(runs), index % columns == 0
        _label_axes(axes, "steps" if is_bottom else "", LABELS["backward"] if is_left else "")
        axes.set_title(name, fontsize="medium")
    _draw_legend(figure, panels[0])
    text = f"{dataset}: gradients over training, each for one training batch"
    if left_out:
        text += f"; not shown, because they have no {LAYERS_FILE}: {', '.join(left_out)}"
    return plot_style.save(figure, path, text + _clipping_note(panels))


def _clip(values: Iterable[float | None]) -> Float[np.ndarray, " values"]:
    """Clips values to the range of the axis, so that 0 is drawn at its lower end; None is NaN."""
    numbers = np.array([np.nan if value is None else value for value in values], float)
    return np.clip(numbers, *AXIS_RANGE)


def _clipping_note(panels: Sequence[Axes]) -> str:
    """Returns a text for the note if a value is drawn at the edge of `AXIS_RANGE`."""
    lines = [line for axes in panels for line in axes.get_lines()]
    is_clipped = any(np.isin(line.get_ydata(), AXIS_RANGE).any() for line in lines)
    return CLIPPING_NOTE if is_clipped else ""


def _label_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    plot_style.label_axes(axes, xlabel, ylabel)
    axes.set_yscale("log")


def _draw_legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))  # a layer of a small model may be drawn twice
    columns = 2 if len(unique) == 4 else 3
    figure.legend(
        unique.values(), unique.keys(), loc="outside lower center", ncols=columns, frameon=False
    )
