"""The same nets and train step in PyTorch, as fast as we know how: what flaxres is compared with.

Channels last, data on the device, fused SGD; on a GPU bfloat16 by autocast and the whole step as a
CUDA graph. Plain nets and residual nets with option A of He15 (arXiv 1512.03385), section 4.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm; the shortcut is added before the last ReLU."""

    def __init__(self, n_in: int, n_out: int, stride: int, plain: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.stride, self.more, self.plain = stride, n_out - n_in, plain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width)."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        if self.plain:
            return F.relu(y, inplace=True)
        if self.more or self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, 0, self.more))
        return F.relu(y + x, inplace=True)


class BaseModel(nn.Module):
    """6n+2 layers; module names are those of flaxres.models.resnet."""

    def __init__(self, depth: int, plain: bool, channels: int, widths: tuple[int, ...]):
        super().__init__()
        self.conv = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        blocks, n_in = nn.ModuleDict(), widths[0]
        for stage, n_out in enumerate(widths, start=1):
            for block in range(1, (depth - 2) // 6 + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                blocks[f"stage{stage}_block{block}"] = Block(n_in, n_out, stride, plain)
                n_in = n_out
        self.blocks = blocks
        self.dense = nn.Linear(n_in, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float images (batch, channels, height, width) to logits."""
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        for block in self.blocks.values():
            x = block(x)
        return self.dense(x.mean((2, 3)))

    def load(self, weights: dict) -> None:
        """Takes the parameters of flaxres: arrays by path, kernels (height, width, in, out)."""
        state = self.state_dict()
        for path, value in weights.items():
            *modules, name = path.split("/")
            if modules[0].startswith("stage"):
                modules.insert(0, "blocks")
            tensor = torch.tensor(value)
            if value.ndim > 1:
                tensor = tensor.permute((3, 2, 0, 1) if value.ndim == 4 else (1, 0))
            name = {"kernel": "weight", "scale": "weight", "bias": "bias"}[name]
            state[".".join([*modules, name])] = tensor
        self.load_state_dict(state)


def random_crop_flip(images: torch.Tensor, pad: int, flip: bool) -> torch.Tensor:
    """Crops of zero-padded images (n, height, width, channels), half of them mirrored."""
    if not pad and not flip:
        return images
    n, height, width, _ = images.shape
    padded = F.pad(images, (0, 0, pad, pad, pad, pad))
    top = torch.randint(0, 2 * pad + 1, (n, 1, 1), device=images.device)
    left = torch.randint(0, 2 * pad + 1, (n, 1, 1), device=images.device)
    rows = top + torch.arange(height, device=images.device)[:, None]
    columns = left + torch.arange(width, device=images.device)
    if flip:
        mirrored = torch.rand(n, 1, 1, device=images.device) < 0.5
        columns = torch.where(mirrored, columns.flip(2), columns)
    batch = torch.arange(n, device=images.device)[:, None, None]
    return padded[batch, rows, columns]


class Training:
    """The train step on random images that lie on the device.

    Attributes:
      net: the net, in channels_last.
    """

    def __init__(
        self, net: BaseModel, mode: str, batch_size: int, images: torch.Tensor, augment: bool
    ):
        """Prepares it.

        Args:
          net: on the device.
          mode: eager, compiled (torch.compile), or with graph- before it, the whole step as a CUDA
            graph.
          batch_size: images of a step.
          images: uint8 (n, height, width, channels), on the device.
          augment: crop and flip.
        """
        self.net, device = net.to(memory_format=torch.channels_last), images.device
        self._images, self._augment = images, augment
        self._labels = torch.randint(0, 10, (len(images),), device=device)
        self._mean = images.float().mean(0) / 255
        self._sums = torch.zeros(2, device=device)
        self._rows = torch.zeros(batch_size, dtype=torch.long, device=device)
        self._order, self._at = torch.empty(0), 0
        self._optimizer = torch.optim.SGD(
            net.parameters(), 0.1, momentum=0.9, weight_decay=1e-4, fused=True
        )
        self._autocast = device.type == "cuda"
        self.loss = self._loss
        self._prepare = self._batch
        if mode.endswith("compiled"):
            self.loss = torch.compile(self._loss)
            self._prepare = torch.compile(self._batch)
        self._graph = self._capture() if mode.startswith("graph-") else None

    def _batch(self, rows: torch.Tensor) -> torch.Tensor:
        images = self._images[rows].float() / 255 - self._mean
        images = random_crop_flip(images, 4, True) if self._augment else images
        return images.permute(0, 3, 1, 2)  # channels last, as the memory has them

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._autocast):
            logits = self.net(images)
        logits = logits.float()
        return F.cross_entropy(logits, labels), (logits.argmax(1) != labels).sum()

    def restart(self, weights: dict, rate: float) -> None:
        """Begins again, from the weights of `BaseModel.load` and with another learning rate."""
        self._optimizer.param_groups[0]["lr"] = rate
        self.net.load(weights)
        for state in self._optimizer.state.values():
            state["momentum_buffer"].zero_()

    def train(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """A step on normalised images; returns the loss before it."""
        loss, wrong = self.loss(images, labels)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=self._graph is None)
        self._sums += torch.stack([loss.detach() * len(labels), wrong.float()])
        return loss.detach()

    def _step(self) -> None:
        self.train(self._prepare(self._rows), self._labels[self._rows])

    def _capture(self) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.DecodeStream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(5):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self._step()
        return graph

    def advance(self) -> int:
        """Starts a step on the next batch of the epoch's random order; returns 1."""
        size = len(self._rows)
        if self._at + size > len(self._order):
            self._order = torch.randperm(len(self._images), device=self._images.device)
            self._at = 0
        self._rows.copy_(self._order[self._at : self._at + size])
        self._at += size
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()
        return 1

    def wait(self) -> None:
        """Returns when all steps are done."""
        self._sums.tolist()
