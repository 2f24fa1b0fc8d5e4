"""Weights files: a trained model in one file, NAME.safetensors, that needs no workdir.

The file holds the tensors params/..., batch_stats/... and mean_image, all float32, and one entry of
metadata, 'flaxres', a JSON object with the config, the step, the class names and the errors. It
holds nothing that could be executed. The path in `init_from` is stored without its directories, and
`dataset.data_dir` is left out. Equal models give equal bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import msgspec
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

import flaxres
from flaxres.errors import DamagedFileError, WeightsError, one_line
from flaxres.field_checks import shown
from flaxres.files import write_atomically
from flaxres.pretrained.load import COLLECTIONS
from flaxres.run.input_spec import InputSpec, checked_input_spec
from flaxres.run.schemas import Name, Step
from flaxres.run.stored_config import make_config, stored_fields

WEIGHTS_SUFFIX = ".safetensors"
METADATA = "flaxres"  # the only entry: safetensors orders several entries at random
MEAN_IMAGE = "mean_image"
MAX_DEPTH = 30  # parts of a tensor's name; models have about five
FORMAT = 1  # increased when older versions of flaxres cannot read the file


class _Metadata(msgspec.Struct):
    """Metadata of a weights file.

    Attributes:
      format: version of the format, `FORMAT`.
      flaxres: version of flaxres that wrote the file.
      config: config of the run.
      step: number of training steps done.
      image_shape: (height, width, channels) of the model's images.
      class_names: names of the classes, ordered by label.
      errors: percentages by name, such as 'test_error'; {} if they are unknown.
      ema: True if the weights are the moving average of those of the run.
    """

    format: int
    flaxres: Name
    config: dict[str, Any]
    step: Step
    image_shape: tuple[int, int, int]
    class_names: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    errors: dict[str, float] = {}
    ema: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """Content of a weights file.

    Attributes:
      config: config of the run.
      step: number of training steps done.
      variables: collections 'params' and 'batch_stats', nested dicts of float32 NumPy arrays.
      input_spec: mean image and class names.
      errors: percentages by name, such as 'test_error'; {} if they are unknown.
      ema: True if the weights are the moving average of those of the run.
    """

    config: ConfigDict
    step: int
    variables: dict[str, Any]
    input_spec: InputSpec
    errors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    ema: bool = False


def is_weights_file(path: Path) -> bool:
    """Returns True if a file ends in .safetensors and is not a PyTorch state dict."""
    if path.suffix != WEIGHTS_SUFFIX or not path.is_file():
        return False
    try:
        return _read_metadata(path) is not None
    except WeightsError:
        return True  # reading the file reports the damage


def write_weights(path: Path, weights: Weights) -> None:
    """Writes a weights file. Readers see the old content or the new one, never a part.

    Raises:
      OSError: the file cannot be written.
    """
    from safetensors.numpy import save

    collections = {name: weights.variables.get(name, {}) for name in COLLECTIONS}
    arrays = traverse_util.flatten_dict(jax.device_get(collections), sep="/")
    arrays[MEAN_IMAGE] = weights.input_spec.mean
    config = weights.config.to_dict()
    config["dataset"]["data_dir"] = None
    if config["init_from"] is not None:
        config["init_from"] = Path(config["init_from"]).name or None
    metadata = {
        "format": FORMAT,
        "flaxres": flaxres.__version__,
        "config": config,
        "step": weights.step,
        "image_shape": weights.input_spec.image_shape,
        "class_names": weights.input_spec.class_names,
        "errors": dict(weights.errors),
        **({"ema": True} if weights.ema else {}),
    }
    tensors = {name: np.array(array, np.float32, order="C") for name, array in arrays.items()}
    write_atomically(path, save(tensors, {METADATA: json.dumps(metadata, sort_keys=True)}))


def read_weights(path: Path) -> Weights:
    """Reads a weights file.

    The variables are not compared with the model of the config
    (`flaxres.pretrained.load.fit_variables`).

    Raises:
      WeightsError: the file cannot be read, is damaged, is a PyTorch state dict, or was written by
        a newer version of flaxres.
    """
    from safetensors.numpy import load_file

    text = _read_metadata(path)
    if text is None:
        raise WeightsError(
            f"{path} is a PyTorch state dict without a config; give --config=FILE.py:MODEL"
        )
    try:
        metadata = msgspec.json.decode(text)
        if metadata["format"] > FORMAT:
            raise WeightsError(
                f"{path} was written by flaxres {metadata['flaxres']}, which this version cannot "
                "read; update flaxres"
            )
        metadata = msgspec.convert(metadata, _Metadata)
        arrays = load_file(path)
        mean = arrays.pop(MEAN_IMAGE)
        if mean.shape != metadata.image_shape:
            raise ValueError(f"{MEAN_IMAGE} has shape {mean.shape}, not {metadata.image_shape}")
        if unknown := [n for n in arrays if n.partition("/")[0] not in COLLECTIONS]:
            raise ValueError(f"unknown tensor {unknown[0]}")
        if deep := [n for n in arrays if n.count("/") > MAX_DEPTH]:
            raise ValueError(f"the name {shown(deep[0])} has more than {MAX_DEPTH} parts")
        input_spec = checked_input_spec(mean, metadata.class_names)
        variables = traverse_util.unflatten_dict(arrays, sep="/")
        config = make_config(stored_fields(metadata.config, path), path)
    except WeightsError:
        raise
    except DamagedFileError as error:
        raise WeightsError(f"{error}; download or export it again") from error
    except Exception as error:  # damaged bytes raise many types
        raise _damaged(path, error) from error
    variables = {name: {} for name in COLLECTIONS} | variables
    return Weights(config, metadata.step, variables, input_spec, metadata.errors, metadata.ema)


def _read_metadata(path: Path) -> str | None:
    """Returns the metadata of flaxres in a file of safetensors, or None if it has none.

    Raises:
      WeightsError: the file cannot be read or is damaged.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get(METADATA)
    except Exception as error:  # damaged bytes raise many types
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> WeightsError:
    if isinstance(error, OSError):
        reason = error.strerror or one_line(error)
        return WeightsError(f"{path} cannot be read ({reason})")
    return WeightsError(f"{path} is damaged, or not a weights file ({one_line(error)})")
