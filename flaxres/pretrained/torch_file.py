"""PyTorch state dicts in files: the arrays by name, read without executing anything.

A file may hold the state dict itself or a checkpoint around it, and its names may have prefixes of
wrappers such as `DataParallel`.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

from flaxres.errors import WeightsError, one_line
from flaxres.pretrained.load import list_names

if TYPE_CHECKING:
    import torch

SAFETENSORS_SUFFIX = ".safetensors"
# Entries of a checkpoint that hold the model's state dict, if another entry could hold one too.
MODEL_KEYS = ("state_dict", "model", "model_state_dict", "net", "network", "module")
# First parts of names that wrappers add: DataParallel, torch.compile, and modules of modules.
PREFIXES = ("module", "_orig_mod", "model", "net", "network", "backbone", "encoder")
COUNTERS = ("num_batches_tracked", "n_averaged")  # buffers that no output depends on
MAX_DEPTH = 4  # dicts around a state dict


def read_state_dict(path: Path) -> dict[str, Shaped[np.ndarray, " ..."]]:
    """Reads the arrays of a PyTorch file by name, without prefixes and counters of batches.

    Args:
      path: a file of `torch.save` or, if its name ends in .safetensors, of safetensors.

    Raises:
      WeightsError: a library is not installed, the file cannot be read, or it does not hold exactly
        one state dict.
    """
    try:
        import torch
    except ImportError:
        raise WeightsError(f"reading {path} needs PyTorch: pip install torch") from None
    content = _read_safetensors(path) if path.suffix == SAFETENSORS_SUFFIX else _load(path)
    tensors = _find_tensors(content, path)
    if other := [repr(name) for name in tensors if not isinstance(name, str)]:
        raise WeightsError(
            f"{path} is not a PyTorch state dict: names of tensors must be text, got "
            f"{list_names(other)}"
        )
    tensors = {n: t for n, t in tensors.items() if n.rpartition(".")[2] not in COUNTERS}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors")
    dtypes = {
        torch.bfloat16: lambda tensor: tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    }
    arrays = {}
    for name, tensor in tensors.items():
        convert = dtypes.get(tensor.dtype, lambda tensor: tensor.numpy())
        try:
            arrays[name] = convert(tensor.detach().resolve_conj().resolve_neg())
        except Exception:  # sparse, quantized and meta tensors, and dtypes that NumPy lacks
            kind = "meta" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
            raise WeightsError(
                f"{path}: {name} must be a tensor of floating-point numbers, got a {kind} tensor "
                f"of {str(tensor.dtype).removeprefix('torch.')}"
            ) from None
    return _strip_prefixes(arrays)


def _load(path: Path) -> object:
    """Loads a file of `torch.save`, which may contain only tensors and Python's containers."""
    import torch

    try:
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns about files before it rejects them
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"there is no file {path}") from None
    except WeightsError:
        raise
    except Exception as error:  # damaged bytes raise many types
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise WeightsError(
            f"{path} cannot be read as a PyTorch state dict: it must hold only tensors, as written "
            f"by torch.save(model.state_dict(), FILE) ({reason})"
        ) from error


def _check_archive(path: Path) -> None:
    """Checks that a zip archive is not larger than its file, as only hostile archives are.

    Raises:
      WeightsError: the archive is compressed, or its entries overlap.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    is_compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if is_compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise WeightsError(
            f"{path} is a compressed archive or a TorchScript model; save a state dict with "
            "torch.save(model.state_dict(), FILE)"
        )


def _read_safetensors(path: Path) -> object:
    """Reads a file of safetensors."""
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise WeightsError(f"reading {path} needs safetensors: pip install safetensors") from None
    try:
        return load_file(path)
    except FileNotFoundError:
        raise WeightsError(f"there is no file {path}") from None
    except Exception as error:  # damaged bytes raise many types
        raise WeightsError(f"{path} is damaged, or not safetensors ({one_line(error)})") from error


def _find_tensors(content: object, path: Path) -> Mapping[Any, torch.Tensor]:
    """Finds the state dict in what a file holds.

    It is the content itself or, in a checkpoint, the only dict of tensors among its entries.
    Averages (EMA) are read only if there is no other state dict.

    Raises:
      WeightsError: there is no state dict, or several.
    """
    if _is_state_dict(content):
        return content
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path} is not a PyTorch state dict, a dict of tensors by name; it holds a "
            f"{type(content).__name__}"
        )
    found = dict(_nested_state_dicts(content, seen={id(content)}))
    averages = [key for key in found if "ema" in re.split(r"[^a-z]+", key.lower())]
    keys = [key for key in found if key not in averages] or averages
    if len(keys) > 1:
        keys = [key for key in keys if key in MODEL_KEYS] or keys
    if len(keys) > 1:
        raise WeightsError(
            f"{path} holds several state dicts: {list_names(keys)}; save the one to read "
            "in a file of its own"
        )
    if keys:
        return found[keys[0]]
    import torch

    others = [
        f"{key!r} ({type(value).__name__})"
        for key, value in content.items()
        if not isinstance(value, torch.Tensor)
    ]
    rest = f"; not tensors: {list_names(others)}" if others else ""
    raise WeightsError(f"{path} is not a PyTorch state dict, a dict of tensors by name{rest}")


def _nested_state_dicts(
    content: Mapping[Any, Any], seen: set[int], prefix: str = "", depth: int = 1
) -> Iterator[tuple[str, Mapping[Any, torch.Tensor]]]:
    """Yields the state dicts among the entries of a dict, with names such as model.state_dict.

    Args:
      content: the dict.
      seen: ids of the dicts that are not searched again; a dict may contain itself.
      prefix: start of the names.
      depth: number of dicts around the entries.
    """
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Mapping) or id(value) in seen:
            continue
        seen.add(id(value))
        if _is_state_dict(value):
            if any(str(name).endswith("weight") for name in value):  # others are metrics
                yield prefix + key, value
        elif depth < MAX_DEPTH:
            yield from _nested_state_dicts(value, seen, f"{prefix}{key}.", depth + 1)


def _is_state_dict(content: object) -> TypeGuard[Mapping[Any, torch.Tensor]]:
    import torch

    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(value, torch.Tensor) for value in content.values())
    )


def _strip_prefixes(
    arrays: dict[str, Shaped[np.ndarray, " ..."]],
) -> dict[str, Shaped[np.ndarray, " ..."]]:
    """Removes first parts of names that are in `PREFIXES` and that all names share."""
    while True:
        first_parts = {name.partition(".")[0] for name in arrays}
        if len(first_parts) > 1 or not first_parts & set(PREFIXES):
            return arrays
        if not all("." in name for name in arrays):
            return arrays
        arrays = {name.partition(".")[2]: array for name, array in arrays.items()}
