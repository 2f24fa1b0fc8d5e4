"""Top-1 and top-5 errors and loss of images of which several views are averaged."""

from __future__ import annotations

import math

import numpy as np

TOP = 5  # the other error that ImageNet's results give, beside that of the first class


class TopKAccumulator:
    """Sums over images; the views of an image may come in any order, and apart.

    Attributes:
      count: images of which all views have come.
    """

    def __init__(self, num_crops: int):
        """For images of `num_crops` views each."""
        self._num_views = num_crops
        self._loss = 0.0
        self._wrong = {1: 0, TOP: 0}
        self._classes = 0
        self._open: dict[int, tuple[np.ndarray, int]] = {}
        self.count = 0

    def add(self, index: int, label: int, log_probabilities: np.ndarray) -> None:
        """Takes one view of image `index`: float32 (classes,), log probabilities of the classes."""
        log_probabilities = np.asarray(log_probabilities, np.float64)
        if index in self._open:
            others, views = self._open.pop(index)
            log_probabilities = np.logaddexp(others, log_probabilities)
        else:
            views = 0
        if views + 1 < self._num_views:
            self._open[index] = (log_probabilities, views + 1)
            return
        self._loss -= log_probabilities[label] - math.log(self._num_views)
        for top in self._wrong:
            self._wrong[top] += rank(log_probabilities, label) >= top
        self._classes = len(log_probabilities)
        self.count += 1

    def averages(self, prefix: str) -> dict[str, float]:
        """Mean loss (of the averaged probabilities, in nats), errors in percent, and images.

        The top-5 error is there where there are more than five classes.
        """
        averages = {
            f"{prefix}_loss": self._loss / self.count,
            f"{prefix}_error": 100.0 * self._wrong[1] / self.count,
        }
        if self._classes > TOP:
            averages[f"{prefix}_top{TOP}_error"] = 100.0 * self._wrong[TOP] / self.count
        return averages | {f"{prefix}_images": self.count}


def rank(scores: np.ndarray, label: int) -> int:
    """How many classes come before `label`: of equal ones the lower numbers do, as in argmax."""
    own = scores[label]
    return int(np.sum(scores > own) + np.sum(scores[:label] == own))
