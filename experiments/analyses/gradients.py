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
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxres.errors import ConfigError, DamagedFileError
from flaxres.experiments.analyses.base import (
    short_names,
    single_device_config,
    write_rows,
)
from flaxres.experiments.analyses.gradient_figures import (
    MAX_CURVES,
    LayerRecord,
    draw_layers,
    draw_training,
    plan_curves,
)
from flaxres.experiments.analyses.model_sources import ModelSource, each_measured
from flaxres.experiments.results.tables import Row
from flaxres.pretrained.sources import SHIPPED
from flaxres.run.records import read_metrics
from flaxres.run.workdir import LAYERS_FILE
from flaxres.training.compiled_steps import CompiledSteps
from flaxres.training.layer_statistics import QUANTITIES


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
    configs = {source.name: source.config for source in sources}
    files = [write_rows(rows, output / "gradients.csv")]
    models = dict(zip(short_names(list(read)), read.values(), strict=True))
    curves = {name: model.records for name, model in models.items()}
    plan = plan_curves(dict(zip(models, (configs[name] for name in read), strict=True)))
    files += draw_layers(curves, plan, output / "gradients", dataset)
    logged = {name: model.records for name, model in models.items() if model.logged}
    left_out = [name for name in models if name not in logged]
    path = output / "gradients_over_training"
    return files + (draw_training(logged, path, dataset, left_out) if logged else [])
