"""PyTorch implementation of the same models, and the modes in which benchmarks run them.

Plain and residual networks of He15 (arXiv 1512.03385), sections 4.1 and 4.2, and Wide ResNets, in
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
# Blocks in each of four stages, by depth: He15, table 1. Each of three stages has (depth - 2) / 6.
FOUR_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class PeerModel(nn.Module):
    """Base class of the models; modules have the names of flaxres."""

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


class Projection(nn.Module):
    """1x1 convolution, with batch norm after it or without."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, has_norm: bool):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.norm = nn.BatchNorm2d(out_channels) if has_norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Projects `x`, of shape (batch, channels, height, width)."""
        projected: torch.Tensor = self.norm(self.conv(x))
        return projected


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm; the shortcut is added before the last ReLU.

    Args:
      in_channels: channels of the input.
      out_channels: channels of the output.
      stride: stride of the first convolution.
      shortcut: option 'A' or 'B' of He15, or 'none'.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.stride, self.extra_channels = stride, out_channels - in_channels
        self.plain = shortcut == "none"
        self.shortcut: nn.Module | None = None
        if shortcut == "B" and (self.extra_channels or stride > 1):
            self.shortcut = Projection(in_channels, out_channels, stride, has_norm=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the block to `x`, of shape (batch, channels, height, width)."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        if self.plain:
            return F.relu(y, inplace=True)
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.extra_channels or self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, 0, self.extra_channels))
        return F.relu(y + x, inplace=True)


class PeerResNet(PeerModel):
    """Plain or residual network of 6n+2 layers with shortcut A, or of 18 or 34 layers with B.

    Args:
      depth: number of layers.
      plain: if True, there are no shortcuts.
      channels: number of channels of the images.
      widths: channels in each of three stages, or in each of four with 18 or 34 layers.
    """

    def __init__(self, depth: int, plain: bool, channels: int, widths: tuple[int, ...]):
        super().__init__()
        self.conv = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        has_four_stages = len(widths) == len(FOUR_STAGES[18])
        counts = FOUR_STAGES[depth] if has_four_stages else ((depth - 2) // 6,) * len(widths)
        shortcut = "none" if plain else "B" if has_four_stages else "A"
        blocks, in_channels = nn.ModuleDict(), widths[0]
        for stage, (count, out_channels) in enumerate(zip(counts, widths, strict=True), start=1):
            for block in range(1, count + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                blocks[f"stage{stage}_block{block}"] = Block(
                    in_channels, out_channels, stride, shortcut
                )
                in_channels = out_channels
        self.blocks = blocks
        self.dense = nn.Linear(in_channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits (batch, 10) of float images (batch, channels, height, width)."""
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        for block in self.blocks.values():
            x = block(x)
        logits: torch.Tensor = self.dense(x.mean((2, 3)))
        return logits


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU; a projection reads their result."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.shortcut: nn.Module | None = None
        if in_channels != out_channels:
            self.shortcut = Projection(in_channels, out_channels, stride, has_norm=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the block to `x`, of shape (batch, channels, height, width)."""
        y = F.relu(self.norm1(x), inplace=True)
        x = x if self.shortcut is None else self.shortcut(y)
        return x + self.conv2(F.relu(self.norm2(self.conv1(y)), inplace=True))


class PeerWideResNet(PeerModel):
    """Wide ResNet of 6n+4 layers: Zagoruyko and Komodakis 2016 (arXiv 1605.07146), table 1.

    Args:
      depth: number of layers.
      channels: number of channels of the images.
      widths: channels in each of three stages.
    """

    def __init__(self, depth: int, channels: int, widths: tuple[int, ...]):
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        blocks, in_channels = nn.ModuleDict(), 16
        for stage, out_channels in enumerate(widths, start=1):
            for block in range(1, (depth - 4) // 6 + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                blocks[f"stage{stage}_block{block}"] = WideBlock(in_channels, out_channels, stride)
                in_channels = out_channels
        self.blocks = blocks
        self.last_norm = nn.BatchNorm2d(in_channels)
        self.dense = nn.Linear(in_channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits (batch, 10) of float images (batch, channels, height, width)."""
        x = self.conv(x)
        for block in self.blocks.values():
            x = block(x)
        logits: torch.Tensor = self.dense(F.relu(self.last_norm(x), inplace=True).mean((2, 3)))
        return logits


def make_peer(family: str, depth: int, channels: int, widths: tuple[int, ...]) -> PeerModel:
    """Returns a model of the family 'plain', 'resnet' or 'wrn'.

    Args:
      family: name of the family.
      depth: number of layers.
      channels: number of channels of the images.
      widths: channels in each stage.
    """
    if family == "wrn":
        return PeerWideResNet(depth, channels, widths)
    return PeerResNet(depth, family == "plain", channels, widths)


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
