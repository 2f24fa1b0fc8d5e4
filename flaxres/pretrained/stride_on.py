"""Resolves `model.stride_on='auto'`: which convolution of a bottleneck has the stride.

He15 (arXiv 1512.03385) has the stride on the first 1x1 convolution. The bottlenecks of torchvision
and timm have it on the 3x3 convolution; a state dict does not record which.
"""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from flaxres.models.blocks import AUTO_STRIDE
from flaxres.pretrained.sources import Kind, find_source, source_kind
from flaxres.pretrained.weights_file import read_weights
from flaxres.run.workdir import CONFIG_FILE, read_config


def resolve_stride(config: ConfigDict, workdir: Path | None = None) -> ConfigDict:
    """Returns a config whose `model.stride_on` is '1x1' or '3x3'.

    'auto' takes the value of the run in `workdir`, otherwise that of the run or the weights file in
    `config.init_from`. Without any, it is '3x3' for a PyTorch state dict and '1x1' for anything
    else. Other values are returned unchanged.

    Args:
      config: config of the run; not changed.
      workdir: directory that holds the run; None for a new run.

    Raises:
      WorkdirError: the config of a run cannot be read.
      WeightsError: the weights file is damaged.
    """
    if config.model.stride_on != AUTO_STRIDE:
        return config
    stride_on, default = AUTO_STRIDE, "1x1"
    if config.init_from is not None:
        source = find_source(config.init_from)
        kind = source_kind(source)
        default = "3x3" if kind is Kind.STATE_DICT else default
        if workdir is None and kind is Kind.WEIGHTS:
            stride_on = read_weights(source).config.model.stride_on
        elif workdir is None and (source / CONFIG_FILE).exists():
            workdir = source
    if workdir is not None:
        stride_on = read_config(workdir)["model.stride_on"]
    resolved = config.copy_and_resolve_references()
    resolved.model.stride_on = default if stride_on == AUTO_STRIDE else stride_on
    return resolved
