"""Files of pretrained weights (`config.init_from`): files of variables and PyTorch state dicts.

A file of variables, NAME.msgpack, holds {'params': ..., 'batch_stats': ...} as written by
`flax.serialization.to_bytes`: names, shapes and numbers, and nothing that could be executed.
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
from flaxres.files import write_atomically
from flaxres.models.layers import HEAD

PyTree = Any

VARIABLES_SUFFIX = ".msgpack"
COLLECTIONS = ("params", "batch_stats")
MAX_NAMES = 3  # names listed in an error message

# Advice if only the classification head does not fit.
NEW_HEAD_HINT = (
    "to train on other classes, initialize a new head with --config.transfer.new_head=True"
)


def fit_variables(
    variables: PyTree, shapes: PyTree, model: ConfigDict, new_head: bool, source: str
) -> PyTree:
    """Checks with `check_fit` that variables fit a model, and converts them to float32.

    If `new_head` is True, the classification head is left out. The other arguments are those of
    `check_fit`.

    Returns:
      Nested dicts of float32 NumPy arrays, 'params' and 'batch_stats'.

    Raises:
      WeightsError: the variables do not fit the model, or are not finite.
    """
    if new_head:
        variables, shapes = without_head(variables), without_head(shapes)
    check_fit(variables, shapes, model, source)
    with np.errstate(over="ignore"):
        arrays = {name: np.array(leaf, np.float32) for name, leaf in _flatten(variables).items()}
    if names := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise WeightsError(
            f"{source} holds NaN, infinite or too large numbers in {list_names(names)}"
        )
    return {name: {} for name in COLLECTIONS} | traverse_util.unflatten_dict(arrays, sep="/")


def write_variables(path: Path, variables: Mapping[str, PyTree]) -> None:
    """Writes a file of variables. Readers see the old content or the new one, never a part.

    Args:
      path: the file, NAME.msgpack.
      variables: 'params' and, for models that have them, 'batch_stats'.

    Raises:
      OSError: the file cannot be written.
    """
    content = {name: jax.device_get(variables.get(name, {})) for name in COLLECTIONS}
    write_atomically(path, serialization.to_bytes(content))


def read_variables(path: Path) -> dict[str, PyTree]:
    """Reads a file that `write_variables` wrote. Executes nothing in it.

    Returns:
      'params' and 'batch_stats', nested dicts of arrays.

    Raises:
      WeightsError: the file cannot be read, is damaged, or holds something else.
    """
    try:
        content = serialization.msgpack_restore(path.read_bytes())
        if isinstance(content, dict):
            _flatten(content)  # fails if dicts are nested too deeply
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror})") from error
    except Exception as error:  # damaged bytes raise many types
        raise WeightsError(
            f"{path} is damaged, or not a file of flax.serialization ({one_line(error)})"
        ) from error
    if not isinstance(content, dict):
        content_type = type(content).__name__
        raise WeightsError(
            f"{path} must hold a dict of 'params' and 'batch_stats', got {content_type}"
        )
    if not set(content) <= set(COLLECTIONS) or "params" not in content:
        keys = ", ".join(map(repr, content)) or "{}"
        raise WeightsError(
            f"{path} must hold a dict of 'params' and 'batch_stats', got "
            f"{one_line(ValueError(keys))}"
        )
    return {name: content.get(name, {}) for name in COLLECTIONS}


def without_head(variables: dict[str, PyTree]) -> dict[str, PyTree]:
    """Returns collections of variables without the classification head.

    Args:
      variables: nested dicts by collection, such as 'params'.
    """
    return {
        name: {layer: leaf for layer, leaf in tree.items() if layer != HEAD}
        if isinstance(tree, Mapping)
        else tree  # a file with other content; `check_fit` rejects it
        for name, tree in variables.items()
    }


def list_names(names: Sequence[str]) -> str:
    """Returns the first names of arrays for a message. A file may have names of any length."""
    first = [one_line(ValueError(name), 300) for name in names[:MAX_NAMES]]
    return first_few([*first, *names[MAX_NAMES:]], MAX_NAMES)


def check_fit(variables: PyTree, shapes: PyTree, model: ConfigDict, source: str) -> None:
    """Checks that variables have a model's names and shapes, and are floating-point numbers.

    Args:
      variables: nested dicts of arrays.
      shapes: the model's variables, as arrays or `jax.ShapeDtypeStruct`s.
      model: the model, an experiment's `config.model`; named in the message.
      source: origin of the variables; named in the message.

    Raises:
      WeightsError: arrays are missing, unexpected, or have the wrong shape or dtype.
    """
    given, expected = _flatten(variables), _flatten(shapes)
    faults = {
        "missing": [name for name in expected if name not in given],
        "unexpected": [name for name in given if name not in expected],
        "wrong shape or dtype:": [
            f"{name} is {_describe(given[name])} instead of {_describe(expected[name])}"
            for name in expected
            if name in given and not _is_like(given[name], expected[name])
        ],
    }
    parts = [f"{fault} {list_names(names)}" for fault, names in faults.items() if names]
    if parts:
        only_head = all(
            name.startswith(f"params/{HEAD}/")
            for name in itertools.chain.from_iterable(faults.values())
        )
        hint = f"; {NEW_HEAD_HINT}" if only_head else ""
        raise WeightsError(
            f"{source} does not fit the model {model_name(model)}: {'; '.join(parts)}{hint}"
        )


def _flatten(variables: PyTree) -> dict[str, Any]:
    """Returns the leaves by name, e.g. params/conv/kernel."""
    flat = traverse_util.flatten_dict(variables)
    return {"/".join(map(str, path)): leaf for path, leaf in flat.items()}


def _is_like(leaf: Any, expected: Any) -> bool:
    is_floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    return is_floating and tuple(leaf.shape) == tuple(expected.shape)


def _describe(leaf: Any) -> str:
    """Returns dtype and shape of an array, such as float32 (3, 3, 16, 16), or the type."""
    return f"{leaf.dtype} {tuple(leaf.shape)}" if hasattr(leaf, "dtype") else type(leaf).__name__
