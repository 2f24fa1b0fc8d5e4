"""PyTorch implementation of the same models and train step, made as fast as we know how.

Channels last, data on the device, fused SGD; bfloat16 by autocast, or with bfloat16 parameters; on
a GPU, the whole step as a CUDA graph. Plain networks and residual networks with option A of He15
(arXiv 1512.03385), section 4.2. Benchmarks compare flaxres with it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LEARNING_RATE = 0.1

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


class Training:
    """The train step on random images that are on the device.

    Attributes:
      model: the model, in channels_last memory format.
    """

    def __init__(
        self, model: PeerModel, mode: Mode, batch_size: int, images: torch.Tensor, augment: bool
    ):
        """Creates the optimizer and, depending on `mode`, compiles or captures the step.

        Args:
          model: the model, on the device.
          mode: how the step runs.
          batch_size: images per step.
          images: uint8 (images, height, width, channels), on the device.
          augment: if True, images are randomly cropped and flipped.
        """
        self.model, self._mode, device = mode.prepare(model), mode, images.device
        self._images, self._augment = images, augment
        self._augments = torch.tensor(True, device=device)
        self._labels = torch.randint(0, 10, (len(images),), device=device)
        self._mean = images.float().mean(0) / 255
        self._sums = torch.zeros(2, device=device)
        self._logits = torch.zeros(batch_size, 10, device=device)
        self._rows = torch.zeros(batch_size, dtype=torch.long, device=device)
        self._order, self._position = torch.empty(0), 0
        # A graph keeps the value that a number had at the capture, but reads a tensor again.
        rate = torch.tensor(LEARNING_RATE, device=device) if mode.graph else LEARNING_RATE
        self._optimizer = torch.optim.SGD(
            model.parameters(), rate, momentum=0.9, weight_decay=1e-4, fused=True
        )
        self._loss = torch.compile(self._compute_loss) if mode.compiled else self._compute_loss
        self._prepare = torch.compile(self._prepare_batch) if mode.compiled else self._prepare_batch
        self._replay: Callable[[], None] = self._step
        if mode.graph:
            clear = functools.partial(self._optimizer.zero_grad, set_to_none=True)
            self._replay = capture(self._step, clear).replay

    def _prepare_batch(self, rows: torch.Tensor) -> torch.Tensor:
        images = self._images[rows].float() / 255 - self._mean
        if self._augment:
            images = random_crop_flip(images, 4, True, self._augments)
        return images.permute(0, 3, 1, 2)  # the memory stays channels last

    def _compute_loss(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Computes the mean loss, the number of misclassified images, and the logits of a batch."""
        logits = self._mode.logits(self.model, images)
        return F.cross_entropy(logits, labels), (logits.argmax(1) != labels).sum(), logits.detach()

    def _step(self) -> None:
        labels = self._labels[self._rows]
        loss, wrong, self._logits = self._loss(self._prepare(self._rows), labels)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=not self._mode.graph)
        self._sums += torch.stack([loss.detach() * len(labels), wrong.float()])

    def advance(self) -> int:
        """Starts a step on the next batch of the epoch's random order; returns 1."""
        batch_size = len(self._rows)
        if self._position + batch_size > len(self._order):
            self._order = torch.randperm(len(self._images), device=self._images.device)
            self._position = 0
        self._rows.copy_(self._order[self._position : self._position + batch_size])
        self._position += batch_size
        self._replay()
        return 1

    def wait(self) -> None:
        """Returns when all steps are done."""
        self._sums.tolist()

    def checked_losses(
        self,
        weights: Mapping[str, np.ndarray],
        images: torch.Tensor,
        labels: torch.Tensor,
        steps: int,
        learning_rate: float,
    ) -> tuple[list[float], torch.Tensor]:
        """Runs steps on one batch, as `advance` runs them, with a CUDA graph by its replays.

        The mean image is zero, and there is no augmentation. The batch replaces images of the data
        set.

        Args:
          weights: variables, as in `PeerModel.load`.
          images: uint8 (batch, height, width, channels).
          labels: int64 (batch,).
          steps: number of steps.
          learning_rate: learning rate of all steps.

        Returns:
          The mean loss of each step, before the update, and the float32 logits of the last one.
        """
        mean = self._mean.clone()
        self._mean.zero_()
        self._augments.fill_(False)
        self._images[: len(images)] = images
        self._labels[: len(labels)] = labels
        self._rows.copy_(torch.arange(len(images), device=images.device))
        self._restart(weights, learning_rate)
        losses = []
        for _ in range(steps):
            self._sums.zero_()
            self._replay()
            losses.append(float(self._sums[0]) / len(images))
        self._mean.copy_(mean)
        self._augments.fill_(True)
        return losses, self._logits

    def _restart(self, weights: Mapping[str, np.ndarray], learning_rate: float) -> None:
        """Loads weights as `PeerModel.load` does, clears momentum and sets the learning rate."""
        (group,) = self._optimizer.param_groups
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate
        self.model.load(weights)
        for state in self._optimizer.state.values():
            state["momentum_buffer"].zero_()


def is_bfloat16(values: torch.Tensor) -> bool:
    """Returns True if every value of a float32 tensor is a bfloat16 number.

    Results computed in float32, or in TF32 with its sums in float32, are so only by chance: one
    value in 65,536.
    """
    return torch.equal(values, values.bfloat16().float())


def capture(function: Callable[[], None], prepare: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """Captures a function as a CUDA graph, after warm-up calls.

    Args:
      function: function on fixed memory of the GPU.
      prepare: called once after the warm-up.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(5):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    prepare()
    with torch.cuda.graph(graph):
        function()
    return graph
