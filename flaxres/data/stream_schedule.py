"""Which images a streamed run needs, one part of a batch after another, from its start to its end.

Batches of training and of evaluation are one sequence, so that the first batch of an evaluation is
decoded before the step that it follows is done, and no worker is ever started anew. It follows from
the config alone: a run that goes on at a step takes it up at that step's part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from flaxres.data.sampler import evaluation_batches

MAX_TASK_SIZE = 32  # images that a worker decodes at a time, at most


@dataclasses.dataclass(frozen=True)
class DecodeTask:
    """Images that are decoded together.

    Attributes:
      split: train, validation or test.
      training: cropped at random; or for an evaluation.
      numbers: int64, of training: positions in the endless sequence of epochs; of an evaluation:
        images of the split, or -1 for none.
    """

    split: str
    training: bool
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)


def split_into_tasks(numbers: np.ndarray) -> list[np.ndarray]:
    """Cuts the images of a batch into as few parts of equal size, within one, as `MAX_TASK_SIZE` allows."""
    return np.array_split(numbers, -(-len(numbers) // MAX_TASK_SIZE))


class StreamSchedule:
    """A sequence of parts: `eval_every` steps, an evaluation of each split, and so on.

    Attributes:
      batches: of each split, the rows of the batches of its evaluation, int32 (batches, images of
        a batch): see `evaluation_batches`.
    """

    def __init__(
        self,
        batch_size: int,
        num_steps: int,
        eval_every: int,
        sizes: Mapping[str, int],
        eval_batch_size: int,
        devices: int = 1,
        share: tuple[int, int] = (0, 1),
    ):
        """Computes nothing yet.

        Args:
          batch_size: of training, on all devices together.
          num_steps: of the run; 0 for one evaluation alone.
          eval_every: steps between two evaluations; there is one after the last step too.
          sizes: images of each split that is evaluated, in this order.
          eval_batch_size: see `evaluation_batches`.
          devices: that share a batch.
          share: the part of each batch that is this process's, (number, of how many).
        """
        self._num_steps, self._eval_every = num_steps, eval_every
        self._share = share
        self._batch_size = batch_size
        self._own = self.process_rows(np.arange(batch_size, dtype=np.int64))
        self._step_parts = split_into_tasks(self._own)
        self.eval_batches = {
            split: evaluation_batches(size, eval_batch_size, devices)
            for split, size in sizes.items()
        }
        self._evaluation = [
            DecodeTask(split, False, part.astype(np.int64))
            for split, batches in self.eval_batches.items()
            for rows in batches
            for part in self.split_process_rows(rows)
        ]

    @property
    def max_task_size(self) -> int:
        """Images of the largest part."""
        parts = [*self._step_parts, *(part.numbers for part in self._evaluation)]
        return max(map(len, parts))

    def process_rows(self, rows: np.ndarray) -> np.ndarray:
        """This process's part of a batch, which lies together."""
        number, count = self._share
        size = len(rows) // count
        return rows[number * size : (number + 1) * size]

    def split_process_rows(self, rows: np.ndarray) -> list[np.ndarray]:
        """This process's part of a batch of an evaluation, in parts."""
        return split_into_tasks(self.process_rows(rows))

    def first_task(self, step: int) -> int:
        """Number of the first part of the batch that follows `step` steps."""
        evaluations = step // self._eval_every
        return step * len(self._step_parts) + evaluations * len(self._evaluation)

    def __len__(self) -> int:
        rest = self._num_steps % self._eval_every or not self._num_steps
        return self.first_task(self._num_steps) + (len(self._evaluation) if rest else 0)

    def __getitem__(self, number: int) -> DecodeTask:
        """Part `number`, from 0."""
        number = int(number)
        period = self.first_task(self._eval_every)
        periods, rest = divmod(number, period)
        steps = min(self._num_steps - periods * self._eval_every, self._eval_every)
        before = steps * len(self._step_parts)
        if rest >= before:
            return self._evaluation[rest - before]
        step, part = divmod(rest, len(self._step_parts))
        first = (periods * self._eval_every + step) * self._batch_size
        return DecodeTask("train", True, first + self._step_parts[part])

    def step_tasks(self, step: int) -> list[DecodeTask]:
        """Parts of the batch that follows `step` steps, beyond the last one too."""
        return [
            DecodeTask("train", True, step * self._batch_size + own) for own in self._step_parts
        ]
