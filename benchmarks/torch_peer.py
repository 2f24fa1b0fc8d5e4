"""PyTorch implementation of the same models, and the modes in which benchmarks run them.

Plain networks and residual networks with option A of He15 (arXiv 1512.03385), section 4.2, in
channels last; bfloat16 by autocast, or with bfloat16 parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

# Names of PyTorch's parameters and running statistics, by those of flaxres.
STATE_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm; the shortcut is added before the last ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, plain: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.stride, self.extra_channels, self.plain = stride, out_channels - in_channels, plain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the block to `x`, of shape (batch, channels, height, width)."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        if self.plain:
            return F.relu(y, inplace=True)
        if self.extra_channels or self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, 0, self.extra_channels))
        return F.relu(y + x, inplace=True)


class PeerModel(nn.Module):
    """Plain or residual network of 6n+2 layers; modules have the names of `flaxres.models.resnet`.

    Args:
      depth: number of layers.
      plain: if True, there are no shortcuts.
      channels: number of channels of the images.
      widths: channels in each stage.
    """

    def __init__(self, depth: int, plain: bool, channels: int, widths: tuple[int, ...]):
        super().__init__()
        self.conv = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        blocks, in_channels = nn.ModuleDict(), widths[0]
        for stage, out_channels in enumerate(widths, start=1):
            for block in range(1, (depth - 2) // 6 + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                blocks[f"stage{stage}_block{block}"] = Block(
                    in_channels, out_channels, stride, plain
                )
                in_channels = out_channels
        self.blocks = blocks
        self.dense = nn.Linear(in_channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits (batch, 10) of float images (batch, channels, height, width)."""
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        for block in self.blocks.values():
            x = block(x)
        return self.dense(x.mean((2, 3)))

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Loads parameters of flaxres.

        Args:
          weights: arrays by path in the variables, such as 'params/conv/kernel'. Convolution
            kernels are (height, width, in, out). Running statistics may be missing.
        """
        state = self.state_dict()
        for path, value in weights.items():
            _, *modules, name = path.split("/")
            if modules[0].startswith("stage"):
                modules.insert(0, "blocks")
            tensor = torch.tensor(value)
            if value.ndim > 1:
                tensor = tensor.permute((3, 2, 0, 1) if value.ndim == 4 else (1, 0))
            name = STATE_NAMES[name]
            state[".".join([*modules, name])] = tensor
        self.load_state_dict(state)


def random_crop_flip(
    images: torch.Tensor, pad: int, flip: bool, enabled: torch.Tensor | None = None
) -> torch.Tensor:
    """Takes random crops of zero-padded images and mirrors half of them.

    Args:
      images: (batch, height, width, channels).
      pad: width of the padding on each side, in pixels.
      flip: if False, no image is mirrored.
      enabled: bool (); where False, the images are returned as they are. A CUDA graph reads it at
        each replay. None is True.
    """
    if not pad and not flip:
        return images
    n, height, width, _ = images.shape
    padded = F.pad(images, (0, 0, pad, pad, pad, pad))
    offsets = torch.randint(0, 2 * pad + 1, (2, n, 1, 1), device=images.device)
    top, left = offsets if enabled is None else torch.where(enabled, offsets, pad)
    rows = top + torch.arange(height, device=images.device)[:, None]
    columns = left + torch.arange(width, device=images.device)
    if flip:
        mirrored = torch.rand(n, 1, 1, device=images.device) < 0.5
        mirrored = mirrored if enabled is None else mirrored & enabled
        columns = torch.where(mirrored, columns.flip(2), columns)
    batch = torch.arange(n, device=images.device)[:, None, None]
    return padded[batch, rows, columns]


@dataclasses.dataclass(frozen=True)
class Mode:
    """Settings with which PyTorch runs a step.

    Attributes:
      dtype: compute dtype.
      graph: if True, the whole step is captured as a CUDA graph.
      cast: if True, parameters have the compute dtype; if False, bfloat16 is by autocast.
      compiled: if True, the step is compiled by torch.compile; if False, it is eager.
    """

    dtype: torch.dtype
    graph: bool
    cast: bool
    compiled: bool

    @classmethod
    def parse(cls, name: str, dtype: str) -> Mode:
        """Reads [graph-][cast-](eager|compiled).

        Raises:
          ValueError: there is no such mode.
        """
        *options, last = name.split("-")
        if last not in ("eager", "compiled") or not set(options) <= {"graph", "cast"}:
            raise ValueError(f"PyTorch has no mode {name!r}")
        return cls(getattr(torch, dtype), "graph" in options, "cast" in options, last == "compiled")

    def prepare(self, model: PeerModel) -> PeerModel:
        """Converts the model to channels last and, with `cast`, to the compute dtype."""
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model.to(self.dtype) if self.cast else model

    def logits(self, model: PeerModel, images: torch.Tensor) -> torch.Tensor:
        """Returns float32 logits of normalized float32 images."""
        autocast = self.dtype is torch.bfloat16 and not self.cast
        with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
            return model(images.to(self.dtype) if self.cast else images).float()
