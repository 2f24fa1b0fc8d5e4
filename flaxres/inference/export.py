"""A run's newest checkpoint as one file that JAX alone can run: StableHLO with its weights.

python -m flaxres.main --mode=export --workdir=RUN --output=net.stablehlo

The file takes uint8 images (n, height, width, channels) of the net's size, n being any number from
1 on, and returns float32 (n, classes): probabilities. Mean image and weights are inside. It is
lowered for CPUs, NVIDIA's GPUs and TPUs, and has none of the CPU kernels of `flaxres.cpu`, so it is
slower on a CPU than the net here, and the same but for rounding. Beside it, in
net.stablehlo.json, are the names of the classes, the size of the images and the run's config.

To run it, with nothing but JAX (`pip install jax flatbuffers`):

    import json, pathlib
    import jax.export
    import numpy as np

    net = jax.export.deserialize(bytearray(pathlib.Path("net.stablehlo").read_bytes()))
    about = json.loads(pathlib.Path("net.stablehlo.json").read_text())
    images = np.zeros((7, *about["image_shape"]), np.uint8)
    probabilities = net.call(images)
    best = [about["class_names"][i] for i in probabilities.argmax(axis=1)]
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp

import flaxres
from flaxres.config import model_name
from flaxres.cpu import kernels
from flaxres.data.augment import normalize
from flaxres.errors import ConfigError, UserError, one_line
from flaxres.inference.trained_model import TrainedModel
from flaxres.run.workdir import write_atomically

PLATFORMS = ("cpu", "cuda", "tpu")


class ExportError(UserError):
    """An export that cannot be written."""


def export_net(net: TrainedModel) -> jax.export.Exported:
    """The function images -> probabilities, see the module, lowered for all platforms."""
    variables = jax.tree.map(jnp.asarray, net.variables)
    mean = jnp.asarray(net.inputs.mean)

    def probabilities(images: jax.Array) -> jax.Array:
        return jax.nn.softmax(net.model.apply(variables, normalize(images, mean), train=False))

    (count,) = jax.export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((count, *net.inputs.image_shape), jnp.uint8)
    with kernels.kernels_disabled(), _without_paths():
        return jax.export.export(jax.jit(probabilities), platforms=PLATFORMS)(images)


@contextlib.contextmanager
def _without_paths() -> Iterator[None]:
    """Leaves out which lines of which files the operations come from."""
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def about(net: TrainedModel) -> dict[str, object]:
    """What the JSON beside an export says; of the config all but where the data lay."""
    config = net.config.to_dict()
    config["dataset"]["data_dir"] = None
    return {
        "net": model_name(net.config.model),
        "step": net.step,
        "image_shape": list(net.inputs.image_shape),
        "class_names": list(net.inputs.class_names),
        "input": "uint8 (n, height, width, channels)",
        "output": "float32 (n, classes), probabilities",
        "platforms": list(PLATFORMS),
        "jax": jax.__version__,
        "flaxres": flaxres.__version__,
        "config": config,
    }


def write_export(net: TrainedModel, output: Path) -> Path:
    """Writes the export of a net to `output`, and what there is to know of it to OUTPUT.json.

    Returns:
      The path of the latter.

    Raises:
      ConfigError: `output` is a directory.
      ExportError: it cannot be written.
    """
    if output.is_dir():
        raise ConfigError(f"--output must be a file, but {output} is a directory")
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"--output={output}: there is no directory {output.absolute().parent}")
    described = output.with_name(output.name + ".json")
    try:
        content = bytes(export_net(net).serialize())
        write_atomically(output, content)
        write_atomically(described, json.dumps(about(net), indent=2) + "\n")
    except ImportError as error:  # the message says what to install
        raise ExportError(one_line(error)) from error
    except OSError as error:
        raise ExportError(f"{output} cannot be written ({error.strerror})") from error
    return described
