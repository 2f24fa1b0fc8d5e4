"""Standard deviation of the response of each 3x3 layer: figure 7 of He15 (arXiv 1512.03385).

flaxres analyze responses --workdir=runs/degradation

The response is the output after batch norm and before ReLU or addition, over the test split with
running statistics. The analysis also writes responses.csv to the directory of each run of a
workdir.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from flaxres.data.augment import normalize
from flaxres.errors import ConfigError, DamagedFileError
from flaxres.experiments.analyses.base import (
    TrainedRun,
    Variables,
    write_rows,
)
from flaxres.experiments.analyses.model_sources import ModelSource, each_measured
from flaxres.experiments.results.figures import draw_responses
from flaxres.experiments.results.runs import RESPONSES_FILE, Run
from flaxres.experiments.results.tables import Row
from flaxres.files import write_atomically
from flaxres.inference.population_statistics import MomentAccumulator
from flaxres.models.norms import separate_norms

FAMILIES = ("plain", "resnet", "resnext", "vgg")  # families with a norm after each convolution


def norms_after_3x3_layers(params: dict[str, Any]) -> set[str]:
    """Returns the names of the norms that follow 3x3 convolutions, such as stage1_block1/norm2.

    Args:
      params: parameters of a model of `FAMILIES`, in which norm2 follows conv2, and so on.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    convolutions = {path.removesuffix("/kernel") for path, leaf in flat.items() if _is_3x3(leaf)}
    norms = {path.removesuffix("/scale") for path in flat if path.endswith("/scale")}
    return {norm for norm in norms if _convolution_before(norm) in convolutions}


def _is_3x3(leaf: Float[Array | np.ndarray, "*shape"]) -> bool:
    return leaf.ndim == 4 and leaf.shape[:2] == (3, 3)


def _convolution_before(norm: str) -> str:
    block, slash, name = norm.rpartition("/")
    return block + slash + name.replace("norm", "conv")


def layer_responses(
    model: nn.Module,
    variables: Variables,
    images: UInt8[np.ndarray, "images height width channels"],
    mean_image: Float[Array, "height width channels"],
    batch_size: int,
) -> dict[str, float]:
    """Returns the standard deviation of each 3x3 layer's response, over a set of images.

    The response is the output of the layer's norm, with running statistics, before ReLU or
    addition. The standard deviation is over all images, positions and channels.

    Args:
      model: a model of `FAMILIES`.
      variables: 'params' and 'batch_stats' of the model.
      images: images in [0, 255].
      mean_image: mean image in [0, 1], subtracted from the images in [0, 1].
      batch_size: number of images in a batch; it affects the result only by rounding.

    Returns:
      Standard deviations from the first layer to the last, by the name of the layer's norm, such
      as stage1_block1/norm2.
    """
    norms = norms_after_3x3_layers(variables["params"])

    @jax.jit
    def measure_batch(
        variables: Variables, batch: UInt8[Array, "batch height width channels"]
    ) -> dict[str, dict[str, jax.Array]]:
        moments: dict[str, dict[str, jax.Array]] = {}

        def measure_norm(
            call: Callable[..., Any],
            arguments: tuple[Any, ...],
            options: dict[str, Any],
            context: nn.module.InterceptorContext,
        ) -> Any:
            path = "/".join(context.module.path)
            if context.method_name != "__call__" or path not in norms:
                return call(*arguments, **options)
            response = call(*arguments)  # without the addition and the ReLU
            moments[path] = {"mean": response.mean(), "var": response.var()}
            add = options.get("add")
            y = response if add is None else response + add
            return nn.relu(y) if options.get("relu") else y

        with separate_norms(), nn.intercept_methods(measure_norm):
            model.apply(variables, normalize(batch, mean_image), train=False)
        return moments

    accumulator = MomentAccumulator()
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        accumulator.add(measure_batch(variables, batch), len(batch))
    pooled = accumulator.statistics()
    layers = sorted(pooled, key=_numbers_in_name)  # jit sorts the names as text
    return {layer: float(np.sqrt(pooled[layer]["var"])) for layer in layers}


def _numbers_in_name(layer: str) -> tuple[int, ...]:
    """Returns the numbers in a layer's name, which sort the layers from first to last."""
    digits = "".join(c if c.isdigit() else " " for c in layer)
    return tuple(map(int, digits.split()))


def check_has_responses(model: ConfigDict, source: str) -> None:
    """Checks that a model has a batch norm after each convolution.

    Args:
      model: fields of the model, `config.model`.
      source: run or file of the model, for the message.

    Raises:
      ConfigError: it does not.
    """
    if model.name not in FAMILIES or model.norm != "batch":
        raise ConfigError(
            "this analysis requires a model with batch norm after each convolution "
            f"({', '.join(FAMILIES)}), got {model.name!r} with model.norm={model.norm!r} in "
            f"{source}"
        )


def responses_of_run(run: TrainedRun) -> dict[str, float]:
    """Returns `layer_responses` of a run's model over its test split.

    Raises:
      ConfigError: the model does not have a batch norm after each convolution.
    """
    check_has_responses(run.config.model, run.name)
    return layer_responses(
        run.make_model(),
        run.variables,
        run.dataset.test.images,
        run.mean_image,
        run.config.eval_batch_size,
    )


def analyze(sources: Sequence[ModelSource], output: Path) -> list[Path]:
    """Measures the responses of each model, draws them, and returns the files.

    Raises:
      UserError: a model is not supported, or a run has no checkpoint or no metrics.
    """
    for source in sources:  # all models are checked before the first is measured
        check_has_responses(source.config.model, str(source))
    rows: list[Row] = []
    runs: dict[str, list[Run]] = {}
    for source, (run, logged) in each_measured(sources, _load):
        responses = responses_of_run(run)
        if source.directory is not None:
            write_responses(responses, source.directory)
        rounded = {layer: float(f"{std:.6g}") for layer, std in responses.items()}  # as in the file
        logged = dataclasses.replace(logged, responses=rounded)
        runs.setdefault(run.variant, []).append(logged)
        for number, (layer, std) in enumerate(responses.items(), start=1):
            rows.append(run.columns | {"number": number, "layer": layer, "std": std})
    files = [write_rows(rows, output / "responses.csv")]
    return files + draw_responses(runs, output / "responses")


def _load(source: ModelSource) -> tuple[TrainedRun, Run]:
    if (logged := source.read_metrics()) is None:
        raise DamagedFileError(f"{source} contains no metrics; train the model first")
    return source.load(), logged


def write_responses(responses: dict[str, float], directory: Path) -> None:
    """Writes the responses to responses.csv in a run's directory, one line for each layer."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("layer", "std"))
    writer.writerows((layer, f"{std:.6g}") for layer, std in responses.items())
    write_atomically(directory / RESPONSES_FILE, text.getvalue())
