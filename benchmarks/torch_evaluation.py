"""Evaluation by the PyTorch implementation, under `torch.inference_mode`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.torch_peer import Mode, PeerModel, capture


class Evaluation:
    """Evaluations of random images that are on the device; a "step" is an image.

    Attributes:
      model: the model, in channels_last memory format.
    """

    def __init__(self, model: PeerModel, mode: Mode, batch_size: int, images: torch.Tensor):
        """Compiles or captures the evaluation of a batch, depending on `mode`.

        Args:
          model: the model, on the device.
          mode: how a batch is evaluated.
          batch_size: images per batch; divides their number.
          images: uint8 (images, height, width, channels), on the device.
        """
        self.model, self._mode, device = mode.prepare(model.eval()), mode, images.device
        self._images, self._mean = images, images.float().mean(0) / 255
        self._labels = torch.randint(0, 10, (len(images),), device=device)
        self._batches = torch.arange(len(images), device=device).split(batch_size)
        self._rows = self._batches[0].clone()
        self._sums = torch.zeros(2, device=device)
        self._batch_sums = torch.compile(self._sum) if mode.compiled else self._sum
        self._graph: torch.cuda.CUDAGraph | None = None
        if mode.graph:
            with torch.inference_mode():
                self._graph = capture(self._step, lambda: None)

    def _sum(self, images: torch.Tensor, labels: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        inputs = (images.float() / 255 - mean).permute(0, 3, 1, 2)  # channels last in memory
        logits = self._mode.logits(self.model, inputs)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return torch.stack([loss, (logits.argmax(1) != labels).sum().float()])

    def _step(self) -> None:
        rows = self._rows
        self._sums += self._batch_sums(self._images[rows], self._labels[rows], self._mean)

    @torch.inference_mode()
    def losses(
        self, weights: Mapping[str, np.ndarray], images: torch.Tensor, labels: torch.Tensor
    ) -> list[float]:
        """Returns the mean loss of one batch, whose mean image is zero, as a list.

        Args:
          weights: variables, as in `PeerModel.load`.
          images: uint8 (batch, height, width, channels).
          labels: int64 (batch,).
        """
        self.model.load(weights)
        sums = self._batch_sums(images, labels, torch.zeros_like(self._mean))
        return [float(sums[0]) / len(labels)]

    @torch.inference_mode()
    def advance(self) -> int:
        """Starts the evaluation of all images; returns their number."""
        for rows in self._batches:
            self._rows.copy_(rows)
            if self._graph is None:
                self._step()
            else:
                self._graph.replay()
        return len(self._images)

    def wait(self) -> None:
        """Returns when all evaluations are done."""
        self._sums.tolist()
