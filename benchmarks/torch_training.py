"""Train step of the PyTorch implementation, with PyTorch's fastest options.

The data are on the device, SGD is fused, and on a GPU the whole step can be a CUDA graph.
Benchmarks compare flaxres with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.torch_peer import Mode, PeerModel, random_crop_flip

LEARNING_RATE = 0.1


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
        # A graph keeps the value of a number from its capture, but reads a tensor at each replay.
        learning_rate = torch.tensor(LEARNING_RATE, device=device) if mode.graph else LEARNING_RATE
        self._optimizer = torch.optim.SGD(
            model.parameters(), learning_rate, momentum=0.9, weight_decay=1e-4, fused=True
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
        """Waits until all steps are done."""
        self._sums.tolist()

    def checked_losses(
        self,
        weights: Mapping[str, np.ndarray],
        images: torch.Tensor,
        labels: torch.Tensor,
        steps: int,
        learning_rate: float,
    ) -> tuple[list[float], torch.Tensor]:
        """Runs steps on one batch as `advance` does; a CUDA graph is replayed.

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

    A value computed in float32, or in TF32 with float32 sums, is one only by chance, in one of
    65,536 cases.
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
