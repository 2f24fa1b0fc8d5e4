"""Exports of trained models: one StableHLO file with weights, which needs only JAX to run.

python -m flaxres.main --mode=export --workdir=RUN --output=model.stablehlo

The exported function accepts uint8 images (n, height, width, channels) of the model's input size,
for any n >= 1, and returns float32 (n, classes): probabilities. Mean image and weights are part of
the file. It runs on CPUs, NVIDIA GPUs and TPUs. It contains no CPU kernels of `flaxres.cpu`, so on
a CPU it is slower than the model in flaxres; results differ only by rounding. A second file,
model.stablehlo.json, has the class names, the image shape and the run's config.

To run an export with nothing but JAX (`pip install jax flatbuffers`):

    import json, pathlib
    import jax.export
    import numpy as np

    model = jax.export.deserialize(bytearray(pathlib.Path("model.stablehlo").read_bytes()))
    metadata = json.loads(pathlib.Path("model.stablehlo.json").read_text())
    images = np.zeros((7, *metadata["image_shape"]), np.uint8)
    probabilities = model.call(images)
    best = [metadata["class_names"][i] for i in probabilities.argmax(axis=1)]
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

import flaxres
from flaxres.config import model_name
from flaxres.cpu import kernels
from flaxres.data.augment import normalize
from flaxres.errors import ConfigError, UserError, one_line
from flaxres.files import check_regular, write_atomically
from flaxres.inference.trained_model import TrainedModel

PLATFORMS = ("cpu", "cuda", "tpu")


class ExportError(UserError):
    """An export cannot be written."""


def export_model(trained_model: TrainedModel) -> jax.export.Exported:
    """Returns the exported function images -> probabilities, lowered for all `PLATFORMS`."""
    variables = jax.tree.map(jnp.asarray, trained_model.variables)
    mean = jnp.asarray(trained_model.input_spec.mean)

    def probabilities(images: jax.Array) -> jax.Array:
        return jax.nn.softmax(trained_model.logits(variables, normalize(images, mean)))

    (count,) = jax.export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((count, *trained_model.input_spec.image_shape), jnp.uint8)
    with kernels.kernels_disabled(), _source_locations_disabled():
        return jax.export.export(jax.jit(probabilities), platforms=PLATFORMS)(images)


@contextlib.contextmanager
def _source_locations_disabled() -> Iterator[None]:
    """Keeps paths of source files out of the lowered operations."""
    option = "jax_traceback_in_locations_limit"
    limit = getattr(jax.config, option)
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, limit)


def export_metadata(trained_model: TrainedModel) -> dict[str, Any]:
    """Returns the content of the JSON file of an export; the data directory is left out."""
    config = trained_model.config.to_dict()
    config["dataset"]["data_dir"] = None
    return {
        "net": model_name(trained_model.config.model),
        "step": trained_model.step,
        "image_shape": list(trained_model.input_spec.image_shape),
        "class_names": list(trained_model.input_spec.class_names),
        "input": "uint8 (n, height, width, channels)",
        "output": "float32 (n, classes), probabilities",
        "platforms": list(PLATFORMS),
        "jax": jax.__version__,
        "flaxres": flaxres.__version__,
        "config": config,
    }


def _is_export_metadata(path: Path) -> bool:
    """Returns True for a JSON file with the fields of `export_metadata`."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"step", "input", "output", "platforms"} <= content.keys()


def write_export(trained_model: TrainedModel, output: Path) -> Path:
    """Writes the export of a model to `output`, and its metadata to OUTPUT.json.

    Returns:
      The path of the metadata.

    Raises:
      ConfigError: `output` or OUTPUT.json exists and is not a file of an export, or the directory
        does not exist.
      ExportError: a file cannot be written.
    """
    if output.name in ("", ".."):
        raise ConfigError(f"--output must be a file, got --output={output}, a directory")
    metadata_path = output.with_name(output.name + ".json")
    try:
        check_regular(output)
        check_regular(metadata_path)
    except OSError as error:
        raise ConfigError(
            f"--output must be a file, got --output={output}: {error.strerror}; choose another name"
        ) from None
    if not output.absolute().parent.is_dir():
        raise ConfigError(
            f"--output={output}: the directory {output.absolute().parent} does not exist"
        )
    for path in (output, metadata_path):
        if path.exists() and not _is_export_metadata(metadata_path):
            raise ConfigError(
                f"--output={output}: {path} exists and does not belong to an export; choose "
                "another name, or remove it"
            )
    try:
        write_atomically(output, bytes(export_model(trained_model).serialize()))
        metadata = json.dumps(export_metadata(trained_model), indent=2)
        write_atomically(metadata_path, metadata + "\n")
    except ImportError as error:  # the message names the missing package
        raise ExportError(one_line(error)) from error
    except OSError as error:
        raise ExportError(f"{output} cannot be written ({error.strerror})") from error
    return metadata_path
