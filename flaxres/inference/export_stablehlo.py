"""StableHLO exports: one file with weights, which needs only JAX to run.

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from flaxres.cpu import kernels
from flaxres.data.augment import normalize
from flaxres.inference.trained_model import TrainedModel

PLATFORMS = ("cpu", "cuda", "tpu")


def probability_function(trained: TrainedModel) -> Callable[[jax.Array], jax.Array]:
    """Returns the function from uint8 images to probabilities, with mean image and weights.

    Call it within `kernels_disabled`.
    """
    variables = jax.tree.map(jnp.asarray, trained.variables)
    mean = jnp.asarray(trained.input_spec.mean)

    def probabilities(images: jax.Array) -> jax.Array:
        return jax.nn.softmax(trained.logits(variables, normalize(images, mean)))

    return probabilities


def image_batch(trained: TrainedModel) -> jax.ShapeDtypeStruct:
    """Returns shape and dtype of the images, with a symbol for their number."""
    (count,) = jax.export.symbolic_shape("n")
    return jax.ShapeDtypeStruct((count, *trained.input_spec.image_shape), jnp.uint8)


def export_model(trained: TrainedModel) -> jax.export.Exported:
    """Returns the exported function images -> probabilities, lowered for all `PLATFORMS`."""
    probabilities, images = probability_function(trained), image_batch(trained)
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


def metadata(trained: TrainedModel) -> dict[str, Any]:
    """Returns what the metadata of an export say about the function."""
    return {
        "input": "uint8 (n, height, width, channels)",
        "output": "float32 (n, classes), probabilities",
        "platforms": list(PLATFORMS),
    }


def serialize(trained: TrainedModel, output: Path) -> bytes:
    """Returns the content of an export.

    Raises:
      ImportError: a package is not installed.
    """
    return bytes(export_model(trained).serialize())
