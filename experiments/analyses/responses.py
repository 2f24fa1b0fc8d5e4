"""How strongly each 3x3 layer responds: figure 7 of He15 (arXiv 1512.03385).

python -m experiments.analyze responses --workdir=runs/degradation

The standard deviation of each layer's output after batch norm and before ReLU or addition, over the
test set with running statistics. Each run also gets its own responses.csv.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from experiments.analyses.base import TrainedRun, load, write_rows
from experiments.results.figures import draw_responses
from experiments.results.runs import RESPONSES_FILE, read_run
from flaxres.data.augment import normalize
from flaxres.errors import ConfigError, WorkdirError
from flaxres.inference.population_statistics import MomentAccumulator

# Families in which a norm follows each convolution.
FAMILIES = ("plain", "resnet", "resnext", "vgg")


def norms_of_3x3_layers(params: dict) -> set[str]:
    """Names of the norms that follow 3x3 convolutions, such as stage1_block1/norm2.

    Args:
      params: of a net of `FAMILIES`, in which norm2 follows conv2, and so on.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    convs = {path.removesuffix("/kernel") for path, leaf in flat.items() if _is_3x3(leaf)}
    norms = {path.removesuffix("/scale") for path in flat if path.endswith("/scale")}
    return {norm for norm in norms if _conv_before(norm) in convs}


def _is_3x3(leaf: np.ndarray) -> bool:
    return leaf.ndim == 4 and leaf.shape[:2] == (3, 3)


def _conv_before(norm: str) -> str:
    block, slash, name = norm.rpartition("/")
    return block + slash + name.replace("norm", "conv")


def layer_responses(
    model: nn.Module, variables: dict, images: np.ndarray, mean: np.ndarray, batch_size: int
) -> dict[str, float]:
    """Standard deviation of each 3x3 layer's response: after its norm, before ReLU or addition.

    Over all images, positions and channels, with running statistics, in a stream of batches.

    Args:
      model: of `flaxres.models`.
      variables: its 'params' and 'batch_stats'.
      images: uint8 (n, height, width, channels).
      mean: float32 (height, width, channels), subtracted from the images in 0..1.
      batch_size: images at a time; the result does not depend on it but for rounding.

    Returns:
      By layer, from the first on; the names are those of the norms, e.g. stage1_block1/norm2.
    """
    norms = norms_of_3x3_layers(variables["params"])

    @jax.jit
    def moments(variables: dict, batch: jax.Array) -> dict[str, dict[str, jax.Array]]:
        found = {}

        def watch(call, arguments, options, context):
            module = context.module
            path = "/".join(module.path)
            if context.method_name != "__call__" or path not in norms:
                return call(*arguments, **options)
            response = call(*arguments)  # the norm alone
            found[path] = {"mean": response.mean(), "var": response.var()}
            add = options.get("add")
            y = response if add is None else response + add
            return nn.relu(y) if options.get("relu") else y

        with nn.intercept_methods(watch):
            model.apply(variables, normalize(batch, mean), train=False)
        return found

    pool = MomentAccumulator()
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        pool.add(moments(variables, batch), len(batch))
    pooled = pool.statistics()
    layers = sorted(pooled, key=_position)  # jit returns them by name
    return {layer: float(np.sqrt(pooled[layer]["var"])) for layer in layers}


def _position(layer: str) -> tuple[int, ...]:
    """Where a layer is in its net: the numbers in its name."""
    digits = "".join(c if c.isdigit() else " " for c in layer)
    return tuple(map(int, digits.split()))


def responses_of_run(run: TrainedRun) -> dict[str, float]:
    """`layer_responses` over the test split of its data set.

    Raises:
      ConfigError: a net in which a norm does not follow each convolution, or no batch norm.
    """
    model = run.config.model
    if model.name not in FAMILIES or model.norm != "batch":
        raise ConfigError(
            f"responses are of nets with batch norm after each convolution "
            f"({', '.join(FAMILIES)}), got {run.name}: {model.name} with norm {model.norm}"
        )
    images = run.dataset.test.images
    return layer_responses(run.model(), run.variables, images, run.mean, run.config.eval_batch_size)


def analyze(directories: Sequence[Path], output: Path) -> list[Path]:
    """Responses of each run; returns the files.

    Raises:
      UserError: a run that has none, or not yet.
    """
    rows, runs = [], {}
    for directory in directories:
        run = load(directory)
        responses = responses_of_run(run)
        write_responses(responses, directory)
        if (records := read_run(directory)) is None:
            raise WorkdirError(f"{directory} holds no metrics")
        runs.setdefault(run.net, []).append(records)
        names = {"run": run.name, "net": run.net, "step": run.step}
        for number, (layer, std) in enumerate(responses.items(), start=1):
            rows.append({**names, "number": number, "layer": layer, "std": std})
    files = [write_rows(rows, output / "responses.csv")]
    return files + draw_responses(runs, output / "responses")


def write_responses(responses: dict[str, float], directory: Path) -> None:
    """Writes responses.csv: a line for each layer."""
    with (directory / RESPONSES_FILE).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("layer", "std"))
        writer.writerows((layer, f"{std:.6g}") for layer, std in responses.items())
