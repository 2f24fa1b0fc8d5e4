"""Top-1 error, top-5 error and loss of images whose crops are averaged."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

TOP_K = 5  # ImageNet results report the top-5 error beside the top-1 error


class TopKAccumulator:
    """Averages the probabilities of each image's crops and sums errors and losses over images.

    The crops of an image may arrive in any order and in different batches.

    Attributes:
      count: number of images whose crops have all arrived.
    """

    def __init__(self, num_crops: int):
        """Creates an empty accumulator for images of `num_crops` crops each."""
        self._num_crops = num_crops
        self._loss = 0.0
        self._wrong = {1: 0, TOP_K: 0}
        self._images_by_label: Counter[int] = Counter()
        self._wrong_by_label: Counter[int] = Counter()
        self._num_classes = 0
        # Image index -> (logarithm of the summed probabilities, number of crops summed).
        self._incomplete: dict[int, tuple[np.ndarray, int]] = {}
        self.count = 0

    def add(self, index: int, label: int, log_probabilities: Float[np.ndarray, " classes"]) -> None:
        """Adds one crop.

        Args:
          index: index of the image.
          label: label of the image.
          log_probabilities: logarithms of the class probabilities of the crop.
        """
        log_sum = np.asarray(log_probabilities, np.float64)
        crops_before = 0
        if index in self._incomplete:
            log_sum_before, crops_before = self._incomplete.pop(index)
            log_sum = np.logaddexp(log_sum_before, log_sum)
        if crops_before + 1 < self._num_crops:
            self._incomplete[index] = (log_sum, crops_before + 1)
            return
        self._loss -= log_sum[label] - math.log(self._num_crops)
        label_rank = rank(log_sum, label)
        for k in self._wrong:
            self._wrong[k] += label_rank >= k
        self._images_by_label[label] += 1
        self._wrong_by_label[label] += label_rank >= 1
        self._num_classes = len(log_sum)
        self.count += 1

    def averages(self, prefix: str) -> dict[str, float]:
        """Returns the mean loss, the errors and the number of images.

        Args:
          prefix: start of each key, such as 'test'.

        Returns:
          PREFIX_loss (of the averaged probabilities, in nats), PREFIX_error and PREFIX_top5_error
          (in percent) and PREFIX_images. With five classes or fewer there is no top-5 error.
        """
        averages = {
            f"{prefix}_loss": self._loss / self.count,
            f"{prefix}_error": 100.0 * self._wrong[1] / self.count,
        }
        if self._num_classes > TOP_K:
            averages[f"{prefix}_top{TOP_K}_error"] = 100.0 * self._wrong[TOP_K] / self.count
        return averages | {f"{prefix}_images": self.count}

    def errors_by_class(self, prefix: str, class_names: Sequence[str]) -> dict[str, float]:
        """Returns the top-1 error of the images of each class, in percent.

        Args:
          prefix: start of each key, such as 'test'.
          class_names: names of the classes, ordered by label.

        Returns:
          PREFIX_error_CLASS for each class that has images, ordered by label.
        """
        return {
            f"{prefix}_error_{class_names[label]}": 100.0 * self._wrong_by_label[label] / count
            for label, count in sorted(self._images_by_label.items())
        }


def rank(scores: Float[np.ndarray, " classes"], label: int) -> int:
    """Returns the number of classes ranked before `label`; lower labels win ties, as in argmax."""
    label_score = scores[label]
    return int(np.sum(scores > label_score) + np.sum(scores[:label] == label_score))
