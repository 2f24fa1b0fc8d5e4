"""Resolves `model.stride_on='auto'`: which convolution of a bottleneck has the stride.

He15 (arXiv 1512.03385) has the stride on the first 1x1 convolution. The bottlenecks of torchvision
and timm have it on the 3x3 convolution; a state dict does not record which.
"""

from __future__ import annotations

import os
from pathlib import Path

from ml_collections import ConfigDict

from flaxres.models.blocks import AUTO_STRIDE
from flaxres.pretrained.load import is_state_dict
from flaxres.run.workdir import CONFIG_FILE, read_config


def resolve_stride(config: ConfigDict, workdir: Path | None = None) -> ConfigDict:
    """Returns a config whose `model.stride_on` is '1x1' or '3x3'.

    'auto' takes the value of the run in `workdir`, otherwise that of the run in `config.init_from`.
    Without either, it is '3x3' for a PyTorch state dict and '1x1' for anything else. Other values
    are returned unchanged.

    Args:
      config: config of the run; not changed.
      workdir: directory that holds the run; None for a new run.

    Raises:
      WorkdirError: the config of a run cannot be read.
    """
    if config.model.stride_on != AUTO_STRIDE:
        return config
    directory = workdir
    if directory is None and config.init_from is not None:
        source = Path(os.path.expanduser(config.init_from))
        directory = source if os.path.exists(source / CONFIG_FILE) else None
    stride_on = AUTO_STRIDE if directory is None else read_config(directory)["model.stride_on"]
    if stride_on == AUTO_STRIDE:
        stride_on = "3x3" if is_state_dict(config.init_from) else "1x1"
    resolved = config.copy_and_resolve_references()
    resolved.model.stride_on = stride_on
    return resolved
