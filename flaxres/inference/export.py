"""Exports of trained models: StableHLO, weights files, PyTorch state dicts and ONNX.

python -m flaxres.main --mode=export --workdir=RUN --output=model.stablehlo

`write_export` chooses the format by the suffix of the file:

stablehlo: a function with its weights, which needs only JAX (`flaxres.inference.export_stablehlo`).
safetensors: a weights file of flaxres (`flaxres.pretrained.weights_file`).
torch: a PyTorch state dict with torchvision's names (`flaxres.inference.export_torch`).
onnx: a graph with its weights, which ONNX Runtime runs (`flaxres.inference.export_onnx`).

Except for weights files, a second file, OUTPUT.json, has the class names, the image shape, the
run's config and what the format needs besides. Formats other than weights files hold Dirac and
RepVGG models in the form for deployment (`flaxres.inference.merging`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flaxres.config import model_name
from flaxres.errors import ConfigError, UserError, one_line
from flaxres.files import check_regular, write_atomically
from flaxres.inference import export_onnx, export_stablehlo, export_torch
from flaxres.inference.export_stablehlo import export_model
from flaxres.inference.merging import merge
from flaxres.inference.pretrained import save_weights
from flaxres.inference.trained_model import TrainedModel
from flaxres.pretrained.weights_file import WEIGHTS_SUFFIX, is_weights_file
from flaxres.suggestions import did_you_mean

__all__ = [
    "FORMATS",
    "ExportError",
    "export_format",
    "export_metadata",
    "export_model",
    "write_export",
]

FORMATS = ("stablehlo", "safetensors", "torch", "onnx")
SUFFIXES = {
    ".stablehlo": "stablehlo",
    WEIGHTS_SUFFIX: "safetensors",
    ".pth": "torch",
    ".pt": "torch",
    ".onnx": "onnx",
}
MODULES = {"stablehlo": export_stablehlo, "torch": export_torch, "onnx": export_onnx}


class ExportError(UserError):
    """An export cannot be written."""


def export_format(output: Path, given: str | None = None) -> str:
    """Returns the format of an export.

    Args:
      output: the file to write. Its suffix selects the format; other suffixes than those in
        `SUFFIXES` select stablehlo.
      given: the format that the user chose, or None.

    Raises:
      ConfigError: there is no such format, or a weights file would have another suffix than
        .safetensors, without which it could not be read.
    """
    if given is not None and given not in FORMATS:
        raise ConfigError(
            f"the format must be one of {', '.join(FORMATS)}, got {given!r}"
            f"{did_you_mean(str(given), FORMATS)}"
        )
    chosen = given or SUFFIXES.get(output.suffix.lower(), "stablehlo")
    if chosen == "safetensors" and output.suffix != WEIGHTS_SUFFIX:
        raise ConfigError(
            f"--output of --format=safetensors must end in .safetensors, got {output}"
        )
    return chosen


def export_metadata(trained: TrainedModel, chosen: str = "stablehlo") -> dict[str, Any]:
    """Returns the content of the JSON file of an export; the data directory is left out.

    Args:
      trained: the model.
      chosen: format of the export: stablehlo, torch or onnx.
    """
    config = trained.config.to_dict()
    config["dataset"]["data_dir"] = None
    return {
        "net": model_name(trained.config.model),
        "step": trained.step,
        "image_shape": list(trained.input_spec.image_shape),
        "class_names": list(trained.input_spec.class_names),
        "batch_stats": trained.batch_stats,
        **({"ema": True} if trained.ema else {}),
        **MODULES[chosen].metadata(trained),
        "config": config,
    }


def _is_export_metadata(path: Path) -> bool:
    """Returns True for a JSON file with the fields of `export_metadata`."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"net", "step", "input", "output"} <= content.keys()


def write_export(trained: TrainedModel, output: Path, given: str | None = None) -> Path | None:
    """Writes the export of a model to `output`, and its metadata to OUTPUT.json.

    Args:
      trained: the model.
      output: the file. An earlier export of the same name is replaced.
      given: one of `FORMATS`; None: the format of the suffix.

    Returns:
      The path of the metadata; None for a weights file, which contains them.

    Raises:
      ConfigError: `output` or OUTPUT.json exists and is not a file of an export, the directory does
        not exist, or the format cannot hold the model.
      ExportError: a file cannot be written, or a package is not installed.
    """
    if output.name in ("", ".."):
        raise ConfigError(f"--output must be a file, got --output={output}, a directory")
    chosen = export_format(output, given)
    metadata_path = output.with_name(output.name + ".json")
    _check_replaceable(output, metadata_path, chosen)
    try:
        if chosen == "safetensors":
            save_weights(trained, output)
            return None
        trained = merge(trained)
        metadata = _format(export_metadata(trained, chosen))
        write_atomically(output, MODULES[chosen].serialize(trained, output))
        write_atomically(metadata_path, metadata + "\n")
    except ImportError as error:  # the message names the missing package
        raise ExportError(one_line(error)) from error
    except OSError as error:
        raise ExportError(f"{output} cannot be written ({error.strerror})") from error
    return metadata_path


def _format(value: Any, indent: str = "") -> str:
    """Returns JSON with a line for each field; a list, such as a mean image, is one line."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value)
    inner = indent + "  "
    fields = (f"{inner}{json.dumps(name)}: {_format(v, inner)}" for name, v in value.items())
    return "{\n" + ",\n".join(fields) + f"\n{indent}}}"


def _check_replaceable(output: Path, metadata_path: Path, chosen: str) -> None:
    """Checks that an export can be written without replacing another file.

    Raises:
      ConfigError: a file is there, or the directory is not.
    """
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
    if chosen == "safetensors":
        paths = [] if is_weights_file(output) else [output]
    else:
        paths = [] if _is_export_metadata(metadata_path) else [output, metadata_path]
    if existing := [path for path in paths if path.exists()]:
        raise ConfigError(
            f"--output={output}: {existing[0]} exists and does not belong to an export; choose "
            "another name, or remove it"
        )
