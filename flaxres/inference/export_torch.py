"""PyTorch exports: a state dict with torchvision's names, for a module of the same architecture.

The file holds the arrays by name and nothing else, so `module.load_state_dict(torch.load(FILE))`
reads it. FILE.json has what a state dict does not show: 'mean' and 'std', by which images are
normalized, and 'notes' on the module. With the suffix .safetensors the state dict is written
without PyTorch.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from flaxres.inference.trained_model import TrainedModel
from flaxres.pretrained.torch_export import describe_differences, to_state_dict
from flaxres.pretrained.weights_file import WEIGHTS_SUFFIX


def metadata(trained: TrainedModel) -> dict[str, Any]:
    """Returns what the metadata of an export say about images and module.

    'mean' is (channels, height, width), or (channels, 1, 1) if it is the same for all pixels; 'std'
    is (channels, 1, 1).
    """
    mean = trained.input_spec.mean.transpose(2, 0, 1)
    if np.all(mean == mean[:, :1, :1]):
        mean = mean[:, :1, :1]
    std = trained.config.transfer.image_std or (1.0,) * len(mean)
    return {
        "input": "float32 (n, channels, height, width), (image / 255 - mean) / std",
        "output": "float32 (n, classes), logits",
        "notes": describe_differences(trained.config.model),
        "mean": mean.tolist(),
        "std": [[[value]] for value in std],
    }


def serialize(trained: TrainedModel, output: Path) -> bytes:
    """Returns the content of an export.

    Args:
      trained: the model.
      output: the file, whose suffix selects torch.save or safetensors.

    Raises:
      ConfigError: the PyTorch names of the model are unknown.
      ImportError: PyTorch is not installed.
    """
    config = trained.config
    state_dict = to_state_dict(
        trained.variables,
        config.model,
        trained.step,
        config.transfer.image_std,
        trained.input_spec.image_shape[:2],
    )
    if output.suffix == WEIGHTS_SUFFIX:
        from safetensors.numpy import save

        return save(state_dict, {"format": "pt"})
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"writing {output} needs PyTorch: pip install torch; --output=NAME.safetensors with "
            "--format=torch needs nothing"
        ) from None
    content = io.BytesIO()
    torch.save({name: torch.tensor(array) for name, array in state_dict.items()}, content)
    return content.getvalue()
