"""Evaluation by the PyTorch implementation, under `torch.inference_mode`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.torch_peer import Mode, PeerModel
from benchmarks.torch_training import capture


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
        self._logits = torch.zeros(batch_size, 10, device=device)
        self._batch_sums = torch.compile(self._sum) if mode.compiled else self._sum
        self._replay: Callable[[], None] = self._step
        if mode.graph:
            with torch.inference_mode():
                self._replay = capture(self._step, lambda: None).replay

    def _sum(
        self, images: torch.Tensor, labels: torch.Tensor, mean: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the summed loss and number of misclassified images (2,), and the logits."""
        inputs = (images.float() / 255 - mean).permute(0, 3, 1, 2)  # channels last in memory
        logits = self._mode.logits(self.model, inputs)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return torch.stack([loss, (logits.argmax(1) != labels).sum().float()]), logits

    def _step(self) -> None:
        rows = self._rows
        sums, self._logits = self._batch_sums(self._images[rows], self._labels[rows], self._mean)
        self._sums += sums

    @torch.inference_mode()
    def checked_losses(
        self, weights: Mapping[str, np.ndarray], images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[list[float], torch.Tensor]:
        """Evaluates one batch as `advance` does, with a CUDA graph by its replay.

        The mean image is zero. The batch replaces images of the data set.

        Args:
          weights: variables, as in `PeerModel.load`.
          images: uint8 (batch, height, width, channels).
          labels: int64 (batch,).

        Returns:
          The mean loss, as a list of one, and the float32 logits.
        """
        self.model.load(weights)
        mean = self._mean.clone()
        self._mean.zero_()
        self._images[: len(images)] = images
        self._labels[: len(labels)] = labels
        self._rows.copy_(self._batches[0])
        self._sums.zero_()
        self._replay()
        self._mean.copy_(mean)
        return [float(self._sums[0]) / len(labels)], self._logits

    @torch.inference_mode()
    def advance(self) -> int:
        """Starts the evaluation of all images; returns their number."""
        for rows in self._batches:
            self._rows.copy_(rows)
            self._replay()
        return len(self._images)

    def wait(self) -> None:
        """Returns when all evaluations are done."""
        self._sums.tolist()
