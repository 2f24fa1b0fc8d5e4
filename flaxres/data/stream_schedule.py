"""Schedules of streamed runs: which images are decoded when, as one sequence of decode tasks.

Training and evaluation batches form one sequence. The first batch of an evaluation is therefore
decoded while the step before it runs, and workers are never restarted. The schedule depends only on
the config, so a resumed run continues at the first task of its step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from flaxres.data.sampler import evaluation_batches

MAX_TASK_SIZE = 32  # images that a worker decodes in one task


@dataclasses.dataclass(frozen=True)
class DecodeTask:
    """Images that one worker decodes together.

    Attributes:
      split: 'train', 'validation' or 'test'.
      training: True for training crops, False for the center crops of an evaluation.
      numbers: int64 (n,). Training: positions in the concatenated epochs. Evaluation: indices of
        images in the split, or -1 for padding.
    """

    split: str
    training: bool
    numbers: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.numbers)


@runtime_checkable
class DecodeTasks(Protocol):
    """A sequence of decode tasks: a `StreamSchedule`, or a list."""

    def __len__(self) -> int:
        """Returns the number of tasks."""

    def __getitem__(self, number: int, /) -> DecodeTask:
        """Returns task `number`, counted from 0."""


def split_into_tasks(numbers: Int[np.ndarray, " images"]) -> list[Int[np.ndarray, " _"]]:
    """Divides images into as few tasks as `MAX_TASK_SIZE` allows; sizes differ by at most one."""
    return np.array_split(numbers, -(-len(numbers) // MAX_TASK_SIZE))


class StreamSchedule:
    """A sequence of decode tasks: `eval_every` steps, an evaluation of each split, and so on.

    Attributes:
      eval_batches: image indices of the evaluation batches of each split, int32 (batches,
        batch_size), from `evaluation_batches`.
    """

    def __init__(
        self,
        batch_size: int,
        num_steps: int,
        eval_every: int,
        sizes: Mapping[str, int],
        eval_batch_size: int,
        num_devices: int = 1,
        process_shard: tuple[int, int] = (0, 1),
    ):
        """Lays out the tasks; those of the training steps are created on demand.

        Args:
          batch_size: training batch size, over all devices.
          num_steps: length of the run; 0 for one evaluation without training.
          eval_every: steps between two evaluations; there is also one after the last step.
          sizes: number of images of each split to evaluate, in the order of evaluation.
          eval_batch_size: largest evaluation batch size, before it is rounded up to a multiple of
            `num_devices`.
          num_devices: number of devices that share a batch.
          process_shard: (index, count) of the slice of each batch that this process loads.
        """
        self._num_steps, self._eval_every = num_steps, eval_every
        self._process_shard = process_shard
        self._batch_size = batch_size
        batch_positions = self.process_rows(np.arange(batch_size, dtype=np.int64))
        self._step_positions = split_into_tasks(batch_positions)
        self.eval_batches = {
            split: evaluation_batches(size, eval_batch_size, num_devices)
            for split, size in sizes.items()
        }
        self._evaluation = [
            DecodeTask(split, False, numbers.astype(np.int64))
            for split, batches in self.eval_batches.items()
            for rows in batches
            for numbers in self.split_process_rows(rows)
        ]

    @property
    def max_task_size(self) -> int:
        """Number of images of the largest task."""
        step_sizes = [len(positions) for positions in self._step_positions]
        return max([*step_sizes, *map(len, self._evaluation)])

    def process_rows(self, rows: Int[np.ndarray, " batch"]) -> Int[np.ndarray, " shard"]:
        """Returns the slice of a batch that this process loads."""
        index, count = self._process_shard
        size = len(rows) // count
        return rows[index * size : (index + 1) * size]

    def split_process_rows(self, rows: Int[np.ndarray, " batch"]) -> list[Int[np.ndarray, " _"]]:
        """Returns the slice of a batch that this process loads, divided into tasks."""
        return split_into_tasks(self.process_rows(rows))

    def first_task(self, step: int) -> int:
        """Returns the number of the first task of the batch for step `step` (0 is the first)."""
        evaluations = step // self._eval_every
        return step * len(self._step_positions) + evaluations * len(self._evaluation)

    def last_evaluation(self) -> int:
        """Returns the number of the first task of the evaluation after the last step."""
        return len(self) - len(self._evaluation)

    def __len__(self) -> int:
        ends_between_evaluations = self._num_steps % self._eval_every or not self._num_steps
        return self.first_task(self._num_steps) + (
            len(self._evaluation) if ends_between_evaluations else 0
        )

    def __getitem__(self, number: int) -> DecodeTask:
        """Returns task `number`, counted from 0."""
        number = int(number)
        tasks_per_period = self.first_task(self._eval_every)
        periods, rest = divmod(number, tasks_per_period)
        steps = min(self._num_steps - periods * self._eval_every, self._eval_every)
        training_tasks = steps * len(self._step_positions)
        if rest >= training_tasks:
            return self._evaluation[rest - training_tasks]
        step, task = divmod(rest, len(self._step_positions))
        first_position = (periods * self._eval_every + step) * self._batch_size
        return DecodeTask("train", True, first_position + self._step_positions[task])

    def step_tasks(self, step: int) -> list[DecodeTask]:
        """Returns the tasks of the batch for step `step`, which may lie beyond the last step."""
        return [
            DecodeTask("train", True, step * self._batch_size + positions)
            for positions in self._step_positions
        ]
