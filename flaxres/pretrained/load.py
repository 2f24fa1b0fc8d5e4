"""Weights to begin with, `config.init_from`: PyTorch's, a file of variables, or those of a run.

A file of variables, NAME.msgpack, holds {'params': ..., 'batch_stats': ...} as
`flax.serialization.to_bytes` writes them: names, shapes and numbers, and nothing to execute.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization, traverse_util
from ml_collections import ConfigDict

from flaxres.config import model_name
from flaxres.errors import WeightsError, first_few, one_line
from flaxres.models.layers import HEAD
from flaxres.pretrained import torch_state_dict
from flaxres.run.workdir import write_atomically

PyTree = Any

SUFFIX = ".msgpack"  # of files of variables
COLLECTIONS = ("params", "batch_stats")
MAX_NAMES = 3  # in a message


def check_path(path: Path) -> bool:
    """Returns True if `path` is a directory, False if it is a file.

    Raises:
      WeightsError: it does not exist or cannot be read.
    """
    try:
        exists, is_directory = path.exists(), path.is_dir()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror})") from error
    if not exists:
        raise WeightsError(f"there is no file {path}")
    return is_directory


def read_weights_file(
    path: Path,
    shapes: PyTree,
    model: ConfigDict,
    new_head: bool = False,
    std: Sequence[float] = (),
) -> PyTree:
    """Reads the variables of a model from a file.

    Args:
      path: a file of variables (.msgpack), or else a PyTorch state dict
        (`flaxres.pretrained.torch_state_dict`).
      shapes: shapes of the variables, 'params' and 'batch_stats', as arrays or shape structs.
      model: the model, an experiment's `config.model`.
      new_head: if True, the classification head of a state dict is left out.
      std: standard deviation by which the images of a PyTorch state dict were divided, one number
        for each channel; empty for none.

    Raises:
      WeightsError: the file cannot be read, or a state dict belongs to another model.
      ConfigError: the PyTorch names of the model are unknown.
    """
    if path.suffix != SUFFIX:
        weights = torch_state_dict.read_state_dict(path)
        return torch_state_dict.convert(weights, shapes, model, new_head, std)
    if std:
        raise WeightsError(f"transfer.image_std is for PyTorch state dicts, and {path} is none")
    return read_variables(path)


def fit_variables(
    variables: PyTree, shapes: PyTree, model: ConfigDict, new_head: bool, source: str
) -> PyTree:
    """Converts variables to float32 after checking that they belong to the model.

    Args:
      variables: nested dicts of arrays.
      shapes: shapes of the model's variables, as arrays or shape structs.
      model: the model, for messages.
      new_head: if True, the classification head is left out.
      source: origin of the variables, for messages.

    Raises:
      WeightsError: see `check_fit`.
    """
    if new_head:
        variables, shapes = without_head(variables), without_head(shapes)
    check_fit(variables, shapes, model, source)
    arrays = {name: np.array(leaf, np.float32) for name, leaf in _flatten(variables).items()}
    return {name: {} for name in COLLECTIONS} | traverse_util.unflatten_dict(arrays, sep="/")


def write_variables(path: Path, variables: Mapping[str, PyTree]) -> None:
    """Writes a file of variables, so that a reader sees all of it or what was there before.

    Args:
      path: NAME.msgpack.
      variables: 'params' and, of nets that have them, 'batch_stats'.

    Raises:
      OSError: it cannot be written.
    """
    held = {name: jax.device_get(variables.get(name, {})) for name in COLLECTIONS}
    write_atomically(path, serialization.to_bytes(held))


def read_variables(path: Path) -> dict[str, PyTree]:
    """The variables of a file that `write_variables` wrote; nothing in it is executed.

    Raises:
      WeightsError: it cannot be read, is damaged, or holds something else.
    """
    try:
        held = serialization.msgpack_restore(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror})") from error
    except Exception as error:  # many kinds, where bytes are damaged
        raise WeightsError(
            f"{path} is damaged, or no file of flax.serialization ({one_line(error)})"
        ) from error
    if not isinstance(held, dict) or not set(held) <= set(COLLECTIONS) or "params" not in held:
        keys = ", ".join(map(repr, held)) if isinstance(held, dict) else type(held).__name__
        raise WeightsError(
            f"{path} must hold a dict of 'params' and 'batch_stats', got {one_line(keys or '{}')}"
        )
    return {name: held.get(name, {}) for name in COLLECTIONS}


def without_head(variables: dict[str, PyTree]) -> dict[str, PyTree]:
    """Collections of variables without those of the last dense layer."""
    return {
        name: {layer: leaf for layer, leaf in tree.items() if layer != HEAD}
        if isinstance(tree, Mapping)
        else tree  # of a file that holds something else
        for name, tree in variables.items()
    }


def check_fit(variables: PyTree, shapes: PyTree, model: ConfigDict, source: str) -> None:
    """Checks that variables have the names and shapes of a net's, and are floating-point numbers.

    Args:
      variables: nested dicts of arrays.
      shapes: what they should be, as arrays or their shapes.
      model: the net, for the message.
      source: where they come from, for the message.

    Raises:
      WeightsError: says which arrays are missing, too many, or of another shape.
    """
    there, here = _flatten(variables), _flatten(shapes)
    wrong = [
        f"{name} {_describe(there[name])} for {_describe(here[name])}"
        for name in here
        if name in there and not _is_like(there[name], here[name])
    ]
    faults = {
        "it has no": [name for name in here if name not in there],
        "the net has no place for": [name for name in there if name not in here],
        "other shapes are": wrong,
    }
    if found := [
        f"{fault} {first_few(names, MAX_NAMES)}" for fault, names in faults.items() if names
    ]:
        at_fault = itertools.chain.from_iterable(faults.values())
        is_head = all(name.startswith(f"params/{HEAD}/") for name in at_fault)
        hint = f"; {torch_state_dict.NEW_HEAD}" if is_head else ""
        raise WeightsError(f"{source} is not of this {model_name(model)}: {'; '.join(found)}{hint}")


def _flatten(variables: PyTree) -> dict[str, Any]:
    """Leaves by name, e.g. params/conv/kernel."""
    flat = traverse_util.flatten_dict(variables)
    return {"/".join(map(str, path)): leaf for path, leaf in flat.items()}


def _is_like(leaf: Any, like: Any) -> bool:
    is_numbers = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    return is_numbers and tuple(leaf.shape) == tuple(like.shape)


def _describe(leaf: Any) -> str:
    """Such as float32 (3, 3, 16, 16)."""
    return f"{leaf.dtype} {tuple(leaf.shape)}" if hasattr(leaf, "dtype") else type(leaf).__name__
