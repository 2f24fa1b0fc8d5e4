"""Weights to begin with, `config.init_from`: PyTorch's, a file of variables, or those of a run.

A file of variables, NAME.msgpack, holds {'params': ..., 'batch_stats': ...} as
`flax.serialization.to_bytes` writes them: names, shapes and numbers, and nothing to execute.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization, traverse_util
from ml_collections import ConfigDict

from flaxres.config import net_name
from flaxres.data import dataset_shape
from flaxres.errors import WeightsError, one_line
from flaxres.models import create_model
from flaxres.models.layers import HEAD
from flaxres.parallel.multihost import is_first
from flaxres.pretrained import torch_state_dict
from flaxres.run.checkpoint import Checkpoints
from flaxres.run.workdir import CONFIG_FILE, read_run_config, write_atomically
from flaxres.training.fine_tuning import without_head
from flaxres.training.optimizer import make_optimizer
from flaxres.training.train_state import create_state

PyTree = Any

SUFFIX = ".msgpack"  # of files of variables
COLLECTIONS = ("params", "batch_stats")
MOST_NAMES = 3  # in a message


def read_weights(
    path: Path,
    shapes: PyTree,
    model: ConfigDict,
    new_head: bool = False,
    std: Sequence[float] = (),
) -> PyTree:
    """The variables of a net from whatever `path` is.

    Args:
      path: the directory of a run, of which the newest checkpoint is taken; a file of variables,
        .msgpack; or else a PyTorch state dict (`flaxres.pretrained.torch_state_dict`).
      shapes: of the variables, 'params' and 'batch_stats', as arrays or their shapes.
      model: the net, an experiment's `config.model`.
      new_head: leave out the last dense layer, which may then be of any shape or not be there.
      std: what the images of a PyTorch state dict were divided by; see `flaxres.pretrained.torch_state_dict`.

    Returns:
      float32 arrays in the places of `shapes`; with `new_head` without the last dense layer.

    Raises:
      WeightsError: there is nothing, it cannot be read, or it is of another net.
      UserError: the run cannot be read, or PyTorch's names of the net are not known.
    """
    try:
        is_there, is_run = path.exists(), path.is_dir()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror})") from error
    if not is_there:
        raise WeightsError(f"there is no file {path}")
    if std and (is_run or path.suffix == SUFFIX):
        raise WeightsError(f"transfer.std is for PyTorch state dicts, and {path} is none")
    if is_run:
        found = read_run(path)
    elif path.suffix == SUFFIX:
        found = read_variables(path)
    else:
        found = torch_state_dict.convert(
            torch_state_dict.read_state_dict(path), shapes, model, new_head, std
        )
    if new_head:
        found, shapes = without_head(found), without_head(shapes)
    check_fit(found, shapes, model, str(path))
    arrays = {name: np.array(leaf, np.float32) for name, leaf in _flatten(found).items()}
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


def read_run(directory: Path) -> dict[str, PyTree]:
    """The variables of the newest checkpoint in a run's directory, which is left as it is.

    Raises:
      WeightsError: it is not the directory of a run, of a single net, with a checkpoint.
      UserError: its config or its checkpoints cannot be read.
    """
    if not (directory / CONFIG_FILE).exists():
        raise WeightsError(
            f"directory {directory} holds no run ({CONFIG_FILE}); give that of a run, a file of "
            f"variables ({SUFFIX}) or a PyTorch state dict"
        )
    config = read_run_config(directory)
    if config.num_replicas > 1:
        raise WeightsError(
            f"{directory} holds {config.num_replicas} replicas in one program; weights are taken "
            "from runs of a single net"
        )
    image_shape, num_classes = dataset_shape(config.dataset)
    model = create_model(config.model, num_classes, config.dtype)
    create = functools.partial(create_state, model, make_optimizer(config), config, image_shape)
    with Checkpoints(directory) as checkpoints:
        state = checkpoints.restore(jax.eval_shape(create, np.uint32(config.seed)), _say)
    if state is None:
        raise WeightsError(f"run {directory} holds no checkpoint yet; train it first")
    return state.variables


def _say(message: str) -> None:
    if is_first():
        print(message, file=sys.stderr)


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
    if found := [f"{fault} {_few(names)}" for fault, names in faults.items() if names]:
        at_fault = itertools.chain.from_iterable(faults.values())
        is_head = all(name.startswith(f"params/{HEAD}/") for name in at_fault)
        hint = f"; {torch_state_dict.NEW_HEAD}" if is_head else ""
        raise WeightsError(f"{source} is not of this {net_name(model)}: {'; '.join(found)}{hint}")


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


def _few(names: list[str]) -> str:
    """The first names, and how many there are besides."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
